"""Config -> parts -> trainer. The one room that names concrete classes, and where rooms that do not know each other
are introduced. Everything that must be ended is put on the caller's ExitStack the moment it is started.
"""
