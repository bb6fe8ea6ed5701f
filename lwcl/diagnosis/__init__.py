"""`lwcl diagnose-clustering`: what is wrong with an encoder, and what to try."""
