"""What a pipeline is given: prompts, pictures, the latents of pictures, and the samples made of them."""
