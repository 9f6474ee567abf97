"""The command line's options: in groups, with the choices that they offer, and as what they mean for a plan."""
