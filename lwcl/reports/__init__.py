"""What commands leave to read: verdicts, numbers and pictures, as HTML and JSON; nothing here imports torch."""
