"""A small Hugging Face Hub on loopback, for tests that use the genuine ``huggingface_hub`` client."""
