"""What the help says of each panel and each screen: a title, a text, and the keys of its own.

A command's id after a dollar stands for its key, which may be any (see ``keyed``).
"""

from __future__ import annotations

MARKS = (
    "At the right of a technique: by how much the predicted peak would change if it were "
    "switched, on or off where it is on. ✓ the plan would fit then, ! it would not any more, "
    "+ with what it needs switched along, ~ of the plan before, … is being predicted, and a "
    "question mark where it cannot be."
)

ABOUT = {
    "plan": (
        "The plan",
        "What the next burst does: the model, the workload, and the techniques in their groups. "
        "● is on, ◐ acts because nothing else of its group is chosen, ○ is off, · is not "
        f"available here. Everything is edited in place and can be undone. {MARKS}",
    ),
    "memory": (
        "Memory",
        "Bytes alive at every moment of the burst, stacked by category. Weights: parameters and "
        "buffers. Gradients: .grad. Optimizer: its state. Activations: kept from the forward "
        "pass for the backward pass. Temporary: everything else. Only the traced steps are "
        "drawn; the others run without any tracing and give the speed. Hatched or dotted: what is "
        "predicted of the plan as it stands, phase by phase. The mouse tells any moment, its "
        "wheel zooms, dragging pans, and a click on a name below hides that band. However many "
        "samples share a column, it shows the highest: no spike is lost.",
    ),
    "loss": (
        "Loss",
        "The training loss of each optimizer step. Dotted: that of the plainest earlier run of "
        "the same model, workload, seed and versions, and how far this one is from it at most. "
        "Allowed: what the techniques by which the two differ may change, as each declares it; "
        "exact ones nothing, over all steps, others so much in the first ten. Outside: further "
        "away than that, so do not trust one of them here; the list of runs says ✗ loss. Need "
        "not match: other steps are taken or another model is trained, and losses may differ.",
    ),
    "peak": (
        "The peak",
        "The moment of the most allocated bytes. Allocated: live tensors. Reserved: held by the "
        "allocator. Device: what the driver reports, on a CPU the memory of the burst's process. "
        "Predicted: the plan's own script run without data, for the GPU that $target chooses. "
        "Under it which GPUs it fits: ✓ fits, ! tight, ✗ exceeds.",
    ),
    "runs": (
        "The runs",
        "Every burst that has started, newest first, each a folder with its plan, script, "
        "events and summary. $edit shows one again. $compare marks the run at the cursor or takes "
        "its mark away; as soon as two are marked they lie over each other, up to four, and what "
        "differs is told beside them, the plan's values first; esc takes all marks away. ◆ is the "
        "pinned baseline: the peaks of all runs are held against it, and losses where they can be. "
        "✎ has a note. Name, note and pin are kept in the run's folder; `memwb runs` reads and "
        "sets them too.",
    ),
}
OWN_KEYS = {
    "question": (
        ("y", "yes"),
        ("n", "no (also esc and q)"),
        ("↵", "yes; where it says so beside no: no"),
    ),
    "remarks": (
        ("ctrl+s", "keep both"),
        ("↵", "in the name: keep both; in the note: another line"),
        ("tab", "from the name to the note, and back"),
        ("esc", "leave; once more where something was changed"),
    ),
    "saving": (
        ("↵", "save; again, to replace one of that name"),
        ("esc", "leave"),
    ),
    "text": (
        ("ctrl+s", "take the text for the plan"),
        ("ctrl+t", "copy all of it"),
        ("esc", "leave; once more where something was changed"),
    ),
    "peak_screen": (
        ("tab", "predicted: of the plan as it stands, of the plan that the run ran"),
        ("↑ ↓", "scroll"),
        ("t", "predict for another GPU"),
        ("esc", "leave"),
    ),
    "models": (
        ("letters", "search; a path or owner/name is taken as it is"),
        ("↑ ↓", "move (also page up, page down)"),
        ("tab", "the next source: catalogue, local cache, folder, hub id"),
        ("↵", "take the model, open the folder"),
        ("esc", "leave"),
    ),
    "targets": (
        ("letters", "search, as 4090 or h100"),
        ("↑ ↓", "move (also page up, page down)"),
        ("tab", "sort by the next of list, capacity, bandwidth, bf16 rate, free"),
        ("shift+tab", "all, those that fit, those that do not"),
        ("↵", "predict for it"),
        ("esc", "leave"),
    ),
    "presets": (
        ("↑ ↓", "move"),
        ("↵", "load"),
        ("w", "save the plan as it stands"),
        ("d", "delete one of yours; that is asked first"),
        ("esc", "leave"),
    ),
    "export": (
        ("w", "write train.py and plan.toml"),
        ("y", "copy the script"),
        ("Y", "copy the line that starts it"),
        ("t", "another folder"),
        ("m", "save adapters, or one merged model"),
        ("↑ ↓ ← →", "scroll"),
        ("esc", "leave"),
    ),
    "settings": (
        ("tab", "theme, keys, defaults"),
        ("↑ ↓", "move"),
        ("↵", "keep the theme, press another key, edit the value"),
        ("space", "the next choice"),
        ("a", "one more key for a command"),
        ("x", "back to the default"),
        ("esc", "leave"),
    ),
    "plan": (
        ("↑ ↓", "move"),
        ("$toggle", "switch on or off, next choice, fold"),
        ("$edit", "edit the value; tab goes on to the next"),
        ("$filter", "filter"),
        ("$fix", "mend what is wrong"),
        ("$undo $redo", "undo and redo every edit"),
    ),
    "memory": (
        ("← →", "a cursor: its moment, to the byte, beside it or below the chart"),
        ("home end", "cursor to the first or the last moment"),
        ("esc", "cursor away"),
        ("$freeze", "freeze"),
        ("$maximise", "maximise"),
    ),
    "loss": (
        ("← →", "a cursor: the step's values are below the chart"),
        ("home end", "cursor to the first or the last step"),
        ("esc", "cursor away"),
        ("$freeze", "freeze"),
        ("$maximise", "maximise"),
    ),
    "peak": (
        ("$peak", "the peak on a screen of its own"),
        ("$maximise", "maximise: the fit list, the largest tensors, what was assumed"),
        ("$target", "predict for another GPU"),
    ),
    "runs": (
        ("↑ ↓", "move"),
        ("$edit", "show"),
        ("$compare", "mark for comparison, two to four"),
        ("$filter", "filter: every word must be in it"),
        ("$sort_runs $turn_runs", "sort by the next, invert; or press the name of a column"),
        ("$name_run $note_run", "name it, note something of it"),
        ("$pin", "pin it as the baseline, or no longer"),
        ("$replay", "replay it: 1×, 4×, at once; $stop leaves off"),
        ("$delete_run", "delete it; that is asked first"),
    ),
}

SCREENS = {
    "question": (
        "A question",
        "Nothing happens until it is answered. Enter says yes where that can be had back or only "
        "ends something; where a habit would cost too much, to delete a run or to run what will "
        "probably not fit, Enter says no.",
    ),
    "remarks": (
        "A run's name and note",
        "Both are kept in the run's folder, and found by the filter of the history. A run without "
        "a name is called by its techniques. `memwb runs rename` and `note` do the same.",
    ),
    "saving": (
        "Saving a preset",
        "The plan under a name: it is then among the presets, here and for `memwb run NAME`. The "
        "file is a plan in TOML, in the folder that `memwb locate` tells. A name of letters, "
        "digits, dots and dashes; that of a shipped preset hides it for you.",
    ),
    "text": (
        "The plan as TOML",
        "Everything that the plan says, as `memwb run` reads it from a file. A technique is on "
        "while its table stands there; a parameter that is left out has its usual value. The "
        "text is checked as it is typed, and its comments are kept with the plan.",
    ),
    "models": (
        "Choosing a model",
        "The architectures of the catalogue, the models of the local Hugging Face cache, folders "
        "and hub ids. A few letters find one; a path (./, ../, ~ or /) lists the folders that go "
        "on from it, and owner/name is a hub id. Below the list: what the model at the cursor "
        "needs in four typical plans, with your batch and sequence length, for what you predict "
        "for: all weights in bf16; LoRA; QLoRA with checkpointing; the preset smallest-memory. "
        "The four marks at the right of a row are the same, of each model that was predicted "
        "before: ✓ fits, ! tight, ✗ exceeds, · not known yet. The line of a bar ends at the "
        "capacity; what is beyond is dashed. `memwb models NAME` prints it.",
    ),
    "targets": (
        "What fits where",
        "Every GPU that a plan can be predicted for, with what one process can get of it, its "
        "memory bandwidth and its dense bf16 rate, and whether the plan as it stands fits: ✓ "
        "fits, ! tight (within a twentieth of the capacity), ✗ exceeds, and how much is free or "
        "too little. The plan is predicted once for each architecture, since each chooses its own "
        "kernels: that of the card at the cursor first, the others in the background; until then "
        "~ says that a verdict was told for another's. Enter makes a card what plans are "
        "predicted for.",
    ),
    "peak_screen": (
        "The peak",
        "What is alive at the moment of the most allocated bytes. Predicted: of the plan as it "
        "stands. Measured: of the run in the charts, which need not be the same plan. Allocated: "
        "live tensors. Reserved: what the allocator holds. Device: what the driver counts, with "
        "the CUDA context; on a CPU, of the process. The largest tensors stand side by side, those "
        "that are alike in one line: – where there are none, … where they may be among the others. "
        "Of a run that was out of memory it is what was alive then, and what was asked for. "
        "Runs of earlier versions have not recorded their tensors.",
    ),
    "presets": (
        "Presets",
        "Plans with a name and a reason: yours, then those that come with memwb. Beside each, "
        "what loading it would change of the plan as it stands, value by value; a load can be "
        "undone. Saving keeps the plan under a name; a preset of yours hides a shipped one of the "
        "same name, and deleting it brings that back.",
    ),
    "export": (
        "Exporting",
        "The train.py of this plan, the very text that a burst runs; it needs torch and "
        "transformers, not memwb. Writing puts it and plan.toml into the folder, and asks before "
        "it replaces files. Copying goes through the terminal (OSC 52), over ssh too; in tmux "
        "with `set -g set-clipboard on`. The line below starts the training; --merge saves one "
        "model, its adapters added into the weights.",
    ),
    "settings": (
        "Settings",
        "Colours, keys, and what memwb starts with. Everything is kept at once in settings.toml, "
        "whose comments stay; `memwb locate` tells where. A colour theme is shown while the "
        "cursor is on it and kept with Enter. A key that is taken can be swapped with the command "
        "that has it. What a first start opens with acts on the next start without a session; the "
        "device and what is allowed act from the next burst on.",
    ),
}
"""The screens beside the main one."""
