"""Images: where they come from, how they are decoded and stored, and the batched views made of them."""
