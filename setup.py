"""Which packages there are: every folder with an ``__init__.py``, under the name memwb.

The folders stand at the top of the repository and install under one namespace: a top-level
``kernels`` would overwrite the package of that name which transformers imports. All else is in
pyproject.toml, which could say this only with a list to be kept by hand.
"""

from setuptools import find_packages, setup

ROOMS = ["engine", "workbench", "kernels", "presets"]
found = find_packages(include=[*ROOMS, *(f"{room}.*" for room in ROOMS)])
setup(
    packages=[f"memwb.{name}" for name in found],
    package_dir={f"memwb.{room}": room for room in ROOMS},
)
