"""Where the independent tasks of a stage are worked on: processes of this machine, or Ray.

    function, items -> results in the order of the items

A task writes its own file (a part of an artifact) and returns the little that the stage must know
of it. Items decide the files, never the engine: every engine makes the same bytes.
"""

from iterppo.engines.choice import Engine, EngineName, open_engine

__all__ = ["Engine", "EngineName", "open_engine"]
