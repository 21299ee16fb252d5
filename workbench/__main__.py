"""``python -m memwb.workbench`` opens the workbench."""

from __future__ import annotations

from memwb.workbench.start import start

if __name__ == "__main__":
    start()
