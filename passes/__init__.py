"""The compiler: graphs in, graphs out. It has never heard of diffusers, files on disk or a terminal."""
