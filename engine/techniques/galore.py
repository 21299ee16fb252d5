"""GaLore: AdamW whose moments live in a low-rank projection of each matrix's gradient."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from memwb.engine.arithmetic import Effect, Facts
from memwb.engine.technique import Technique
from memwb.engine.techniques.adamw import adamw_states


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of GaLore."""

    rank: Annotated[int, Meta(ge=1, le=4096, description="rank of the projection")] = 128
    update_proj_gap: Annotated[
        int, Meta(ge=1, description="steps between two singular value decompositions")
    ] = 200
    scale: Annotated[float, Meta(gt=0, description="factor of the projected updates")] = 0.25
    weight_decay: Annotated[float, Meta(ge=0, description="decoupled weight decay")] = 0.0
    beta1: Annotated[float, Meta(ge=0, lt=1, description="decay of the first moment")] = 0.9
    beta2: Annotated[float, Meta(ge=0, lt=1, description="decay of the second moment")] = 0.999


technique = Technique(
    name="galore",
    title="GaLore",
    group="optimizer",
    shrinks=("optimizer",),
    saves="Moments of m × n matrices: 2 × rank × longer side + rank × shorter side values remain.",
    costs="A decomposition of every gradient each update_proj_gap steps; updates of low rank.",
    not_when="Matrices are small: those whose shorter side is within the rank stay with AdamW.",
    source="arXiv:2403.03507; galore_torch.GaLoreAdamW",
    params=Params,
    # Updates of low rank are other steps: no curve is owed.
    packages=("galore_torch",),
)


def build_optimizer(
    model: Any,
    learning_rate: float,
    *,
    rank: int,
    update_proj_gap: int,
    scale: float,
    weight_decay: float,
    beta1: float,
    beta2: float,
) -> Any:
    """GaLore's AdamW: matrices of the decoder layers projected, everything else as AdamW."""
    from galore_torch import GaLoreAdamW

    from memwb.engine.recipe import decoder_layers

    trained = [weight for weight in model.parameters() if weight.requires_grad]
    projected = {
        weight
        for weight in decoder_layers(model).parameters()
        if weight.requires_grad and weight.ndim == 2 and min(weight.shape) > rank
    }
    groups: list[dict[str, Any]] = [
        {"params": [weight for weight in trained if weight not in projected]},
        {
            "params": [weight for weight in trained if weight in projected],
            "rank": rank,
            "update_proj_gap": update_proj_gap,
            "scale": scale,
            "proj_type": "std",
        },
    ]
    optimizer = GaLoreAdamW(
        [group for group in groups if group["params"]],
        lr=learning_rate,
        betas=(beta1, beta2),
        # The library's own 1e-6 is not small beside bf16's gradients: torch's default instead.
        eps=1e-8,
        weight_decay=weight_decay,
        no_deprecation_warning=True,
    )
    optimizer.register_step_post_hook(trim_projectors)
    return optimizer


def trim_projectors(optimizer: Any, *_: Any) -> None:
    """Keep the rows that a projector uses: the library holds the whole square matrix by a view."""
    for state in optimizer.state.values():
        projector = state.get("projector")
        if projector is not None:
            matrix = projector.ortho_matrix
            if matrix.untyped_storage().nbytes() > matrix.nbytes:
                projector.ortho_matrix = matrix.clone()


def effects(params: Params, facts: Facts) -> list[Effect]:
    """Moments of rank × longer side and one projector for each matrix, AdamW's for the rest."""
    values = projectors = matrices = 0
    for weight in facts.trained:
        if len(weight.shape) == 2 and weight.kind == "linear" and min(weight.shape) > params.rank:
            matrices += weight.count
            values += weight.count * 2 * params.rank * max(weight.shape)
            projectors += weight.count * params.rank * min(weight.shape)
        else:
            values += weight.count * 2 * weight.size
    return [
        Effect(
            category="optimizer",
            before=adamw_states(facts),
            after=(values + projectors) * facts.trained_bytes,
            formula=f"{facts.trained_bytes} B × ({values:,} values of moments + {projectors:,} of"
            f" projectors); {matrices} matrices at rank {params.rank}",
        )
    ]
