"""What a command says while it runs."""
