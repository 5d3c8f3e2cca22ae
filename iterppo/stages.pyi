# `iterppo.stages` is the folder stages/ at the top of the repository (pyproject.toml maps it).
# A type checker reads no mapping: this lets it take the name. The stages themselves are checked as
# `stages`.
from types import ModuleType

def __getattr__(name: str) -> ModuleType: ...
