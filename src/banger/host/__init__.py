"""The host as banger sees it: programs to run, processes, resources, directories, configuration.

`runner` is the only module of banger that starts other programs. Imports api alone; imported by
the seams, the daemon and the client (for paths and for starting the daemon).
"""
