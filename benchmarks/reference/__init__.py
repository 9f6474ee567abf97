"""How the built-in pipeline `emoji` was made: real pictures in, a `StableDiffusionPipeline` folder out."""
