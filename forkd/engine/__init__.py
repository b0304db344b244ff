"""What the models are made of: who waits, and who moves the bytes. In a worker."""
