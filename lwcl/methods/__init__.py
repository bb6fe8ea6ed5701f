"""The training methods, one a file; `lwcl.method.methods()` finds them by itself."""
