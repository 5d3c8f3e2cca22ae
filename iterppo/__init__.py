"""Iterative PPO: a messaging assistant's logs in, a better assistant out, one round at a time."""

from pathlib import Path

__version__ = "0.1.0"

# In a checkout `iterppo.stages` and `iterppo.schemas` are folders at the top of the repository, and
# are found however Python was started. A wheel has them inside the package: nothing to do.
_checkout = Path(__file__).resolve().parent.parent
_project = _checkout / "pyproject.toml"
if (
    (_checkout / "stages" / "__init__.py").is_file()
    and _project.is_file()
    and '\nname = "iterppo"\n' in _project.read_text(encoding="utf-8")
):
    __path__.append(str(_checkout))
