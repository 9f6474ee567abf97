"""Into the program and out of it again, by `torch.export`.

It takes a module with example inputs and gives a `Program` that computes the same at other sizes too, checked; or it
takes a program and gives an `ExportedProgram`. All that is particular to export's graphs is here. It knows no sites.
"""
