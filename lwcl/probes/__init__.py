"""`lwcl probe`: what encoders are worth to a linear classifier of their features."""
