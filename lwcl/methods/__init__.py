"""The training methods, one a file; `lwcl.methods.method.methods()` finds them by itself."""
