"""The frame of the screens that open over the main one."""

from __future__ import annotations

DIALOG = """
    align: center middle;
    background: $background 60%;
    .dialog {
        width: 90%;
        max-width: 130;
        height: 90%;
        padding: 0 1;
        border: round $primary;
        border-title-color: $text-primary;
        border-title-style: bold;
        border-subtitle-color: $foreground 60%;
        background: $surface;
    }
    .said { height: auto; color: $foreground 60%; }
    .said.-bad { color: $text-error; }
    .said.-good { color: $text-success; }
    Input, Input:focus {
        margin: 0 0 1 0;
        padding: 0 1;
        height: 1;
        border: none;
        background: $surface-lighten-1;
    }
"""
"""Rules that every such screen nests under its own name."""
