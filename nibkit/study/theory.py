"""Closed forms and small experiments behind notebook 01: each theorem and axiom of the paper in a form that could fail.

Z is the state that enters a block, lam Z the narrowed one, F the cosine that the rest of the encoder reads from it with
the other encoder's embedding. Information is in nats. Experiments return tidy tables, one row per pair and setting, to
draw and to test.
"""

import copy
import re
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import scipy.stats
import torch
import torch.nn.functional as F
from torch import Tensor

from ..attribution import Attribution
from ..methods.nib import Bottleneck, path
from ..metrics.stats import relative_difference
from ..models import Clip, openai
from ..models.towers import State, Tower

# ---- Theorem 1: information grows with lam


def information(covariance: np.ndarray, lam: float | np.ndarray, s: float) -> np.ndarray:
    """Theorem 1 in closed form: I(Z; lam Z + eps) = 1/2 log det(I + lam^2 S / s^2), nats, in the shape of `lam`.

    Z ~ N(m, S) with S = `covariance` (C, C), eps ~ N(0, s^2 I).
    """
    spread = np.linalg.eigvalsh(covariance).clip(0)
    return 0.5 * np.log1p(np.multiply.outer(np.square(lam), spread) / s**2).sum(-1)


def information_sampled(covariance: np.ndarray, lam: float, s: float, draws: int, seed: int = 0) -> tuple[float, float]:
    """The same without the formula: mean of log p(out | z) - log p(out) over draws of (z, out), and its standard
    error.
    """
    rng, c = np.random.default_rng(seed), len(covariance)
    z = rng.multivariate_normal(np.zeros(c), covariance, draws)
    out = lam * z + s * rng.standard_normal(z.shape)
    given = scipy.stats.norm.logpdf(out, loc=lam * z, scale=s).sum(1)
    alone = scipy.stats.multivariate_normal(np.zeros(c), lam**2 * covariance + s**2 * np.eye(c)).logpdf(out)
    return float(np.mean(given - alone)), float(np.std(given - alone) / np.sqrt(draws))


def information_table(
    covariance: np.ndarray, lam: Sequence, noise: Sequence, draws: int, seed: int = 0
) -> pd.DataFrame:
    """Theorem 1, both ways: columns noise (s over the root mean variance), lam, closed, sampled, error (standard
    error).
    """
    rows, unit = [], np.sqrt(np.trace(covariance) / len(covariance))
    for s in noise:
        for x in lam:
            sampled, error = information_sampled(covariance, x, s * unit, draws, seed)
            closed = float(information(covariance, x, s * unit))
            rows.append({"noise": s, "lam": x, "closed": closed, "sampled": sampled, "error": error})
    return pd.DataFrame(rows)


def patch_covariance(clip: Clip, pixels: Tensor, layer: int) -> np.ndarray:
    """S (C, C) of the patch states that enter image block `layer`, over all patches of all pictures; CLS left out."""
    tokens = clip.image.state(pixels, layer).tokens[:, clip.image.prefix :].flatten(0, 1)
    return np.cov(tokens.double().cpu().numpy(), rowvar=False)


# ---- F along the path


def bottlenecks(clip: Clip, pixels: Tensor, ids: list[Tensor], layer: int) -> dict[str, Bottleneck]:
    """F of each encoder for B pairs, "image" and "text", with the other encoder's embedding held fixed."""
    towers = clip.image, clip.text
    states = [tower.state(x, layer) for tower, x in zip(towers, (pixels, ids))]
    with torch.no_grad():
        embeddings = [tower.embed(state, layer) for tower, state in zip(towers, states)]
    cut = zip(
        towers, states, embeddings[::-1], (tower.rows_at_once("auto", z, layer) for tower, z in zip(towers, states))
    )
    return {tower.name: Bottleneck(tower, z, layer, other, rows) for tower, z, other, rows in cut}


def match(bottleneck: Bottleneck, tokens: Tensor) -> Tensor:
    """F (B,) at tokens (B, T, C) that replace the state's own."""
    embedding = bottleneck.tower.embed(State(tokens, bottleneck.state.readout), bottleneck.layer)
    return F.cosine_similarity(embedding, bottleneck.target)


def along(bottleneck: Bottleneck, lam: Sequence[float]) -> pd.DataFrame:
    """F(lam Z): columns pair, lam, match."""
    b, n = len(bottleneck.target), len(lam)
    everyone = torch.arange(b, device=bottleneck.target.device).repeat_interleave(n)
    nodes = torch.as_tensor(np.tile(lam, b)).to(bottleneck.target)
    values = bottleneck.value(nodes, everyone).cpu().numpy()
    return pd.DataFrame({"pair": everyone.cpu().numpy(), "lam": np.tile(lam, b), "match": values})


def below(path: pd.DataFrame, lam: float) -> float:
    """Share of F's total variation along one pair's path (rows of `along`, sorted by lam) that happens below `lam`."""
    moves = path.match.diff().abs().iloc[1:]
    return float(moves[path.lam.iloc[1:] <= lam].sum() / moves.sum())


def shrink_eps(model: torch.nn.Module, eps: float = 1e-14) -> None:
    """Make every LayerNorm's eps so small that it matters below lam = 1e-6 only. For `altered`."""
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = eps


def ends(bottleneck: Bottleneck) -> pd.DataFrame:
    """F(Z), F(0+), where the stream is closed and the cut block's normalised input still open, and F(0): a row per
    pair.
    """
    b = len(bottleneck.target)
    opened, half = (bottleneck.value(torch.full((b,), t), torch.arange(b), "carry") for t in (1.0, 0.0))
    table = {"F(Z)": opened, "F(0+)": half, "F(0)": bottleneck.closed()}
    return pd.DataFrame({name: value.cpu().numpy() for name, value in table.items()}).rename_axis("pair")


# ---- Theorem 2: the noise can be dropped


def noise_limit(bottleneck: Bottleneck, lam: Sequence, noise: Sequence, draws: int, seed: int = 0) -> pd.DataFrame:
    """Theorem 2: how far F(lam Z + eps) is from F(lam Z), eps ~ N(0, s^2 I), s = noise * rms(Z) of the pair.

    Columns pair, lam, noise, deviation (root mean square over the draws), predicted (s |grad F(lam Z)|, what F's first
    derivative leads to as s -> 0), bias (|mean over the draws and their mirror images - F(lam Z)|, of order s^2).
    Give it float64 (`altered(clip, torch.nn.Module.double)`): at small s float32 rounding is larger than the effect.
    """
    z, rng, tables = bottleneck.state.tokens, torch.Generator().manual_seed(seed), []
    eps = torch.randn(draws, *z.shape, generator=rng, dtype=z.dtype).to(z.device)
    rms = z.square().mean((1, 2)).sqrt()
    for x in lam:
        tokens = (x * z).requires_grad_()
        still = match(bottleneck, tokens)
        (gradient,) = torch.autograd.grad(still.sum(), tokens)
        slope = gradient.square().sum((1, 2)).sqrt()
        for s in noise:
            with torch.no_grad():
                step = s * rms[:, None, None]
                up, down = (
                    torch.stack([match(bottleneck, x * z + sign * step * e) for e in eps]) - still for sign in (1, -1)
                )
            columns = {
                "deviation": torch.cat([up, down]).square().mean(0).sqrt(),
                "predicted": s * rms * slope,
                "bias": ((up + down) / 2).mean(0).abs(),
            }
            table = pd.DataFrame({name: v.detach().cpu().numpy() for name, v in columns.items()})
            tables.append(table.rename_axis("pair").reset_index().assign(lam=x, noise=s))
    return pd.concat(tables, ignore_index=True)


def order(x: Sequence[float], y: Sequence[float]) -> float:
    """p of y ~ x^p: the slope of log y against log x."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


# ---- Theorem 3 and completeness


def completeness(bottleneck: Bottleneck, rule: str, n: int, tol: float = 0.01) -> pd.DataFrame:
    """Theorem 3: the sum of all token scores beside F(Z) - F(0), for at most n gradient passes.

    rule: one of nib's; "exact", "carry" and "norm" stop where they are certified at `tol`. Columns pair, rule, n,
    passes (spent), change (F(Z) - F(0), or that of the part), total (the sum of the scores), gap (|total - change| /
    |change|).
    """
    p = path(bottleneck, rule, n, tol)
    table = {"change": p.change, "total": p.scores.sum(1), "gap": p.gap / p.change.abs(), "passes": p.passes}
    table = pd.DataFrame({name: v.cpu().numpy() for name, v in table.items()})
    return table.rename_axis("pair").reset_index().assign(rule=rule, n=n)


def narrowed(z: Tensor, lam: float) -> Tensor:
    """Appendix G: the state that nibkit's Bottleneck hands to the encoder at lam, caught on its way; z (B, T, C)."""
    seen, catcher = [], Tower()
    catcher.embed = lambda state, layer: seen.append(state.tokens) or state.tokens.flatten(1)
    state = State(z, torch.zeros(len(z), dtype=torch.long, device=z.device))
    every = torch.arange(len(z), device=z.device)
    Bottleneck(catcher, state, 0, z.flatten(1)).value(torch.full_like(every, lam, dtype=z.dtype), every)
    return seen[0]


# ---- implementation invariance


def altered(clip: Clip, change: Callable[[torch.nn.Module], object]) -> Clip:
    """A second Clip on a copy of the model that `change` has worked on in place; ValueError where it is no ViT of
    OpenAI's.
    """
    if clip._backend is not openai or clip.image.unattended:
        raise ValueError(
            f"{clip.name} is not a ViT in the format of OpenAI's clip, which is what the theory is shown on; load one"
        )
    model = copy.deepcopy(clip.model)
    change(model)
    return Clip(f"{clip.name}, altered", model, openai, clip._transform, clip._tokenizer, clip.device)


@torch.no_grad()
def rewrite(model: torch.nn.Module, seed: int = 0) -> None:
    """Other weights, same function: in every block, shuffle the hidden units of the MLP and scale the queries' channels
    by a random a, the keys' by 1 / a, the values' by a random b, what reads them by 1 / b."""
    rng = torch.Generator().manual_seed(seed)
    for block in [*model.visual.transformer.resblocks, *model.transformer.resblocks]:
        up, down, attn = block.mlp.c_fc, block.mlp.c_proj, block.attn
        shuffle = torch.randperm(up.out_features, generator=rng).to(up.weight.device)
        up.weight[:], up.bias[:], down.weight[:] = up.weight[shuffle], up.bias[shuffle], down.weight[:, shuffle]
        a, b = (0.5 + 1.5 * torch.rand(2, attn.embed_dim, generator=rng)).to(up.weight)
        factors = torch.cat([a, 1 / a, b])
        attn.in_proj_weight *= factors[:, None]
        attn.in_proj_bias *= factors
        attn.out_proj.weight /= b


RENAMES = {  # OpenAI's parameter names -> transformers', as regular expressions applied in this order
    r"^visual\.transformer\.resblocks": "vision_model.encoder.layers",
    r"^transformer\.resblocks": "text_model.encoder.layers",
    r"\.attn\.": ".self_attn.",
    r"\.ln_([12])\.": r".layer_norm\1.",
    r"\.c_fc\.": ".fc1.",
    r"\.c_proj\.": ".fc2.",
    r"^visual\.(class_embedding)": r"vision_model.embeddings.\1",
    r"^visual\.conv1": "vision_model.embeddings.patch_embedding",
    r"^visual\.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    r"^visual\.ln_pre": "vision_model.pre_layrnorm",  # their spelling
    r"^visual\.ln_post": "vision_model.post_layernorm",
    r"^visual\.proj": "visual_projection.weight",
    r"^token_embedding": "text_model.embeddings.token_embedding",
    r"^positional_embedding": "text_model.embeddings.position_embedding.weight",
    r"^ln_final": "text_model.final_layer_norm",
    r"^text_projection": "text_projection.weight",
}


def as_transformers(clip: Clip) -> Clip:
    """The same weights as a transformers CLIPModel, behind nibkit's own transformers backend. Needs transformers."""
    import transformers

    from ..models import transformers as backend

    state = {}
    for name, value in clip.model.state_dict().items():
        for old, new in RENAMES.items():
            name = re.sub(old, new, name)
        if name in ("visual_projection.weight", "text_projection.weight"):
            value = value.T
        if "in_proj" in name:
            state |= {name.replace("in_proj_", f"{p}_proj."): part for p, part in zip("qkv", value.chunk(3))}
        else:
            state[name] = value
    image, text = clip.image, clip.text
    vision, words = ({
        "hidden_size": tower.width, "intermediate_size": 4 * tower.width, "num_hidden_layers": len(tower.blocks),
        "num_attention_heads": tower.blocks[0].heads, "hidden_act": "quick_gelu",
    } for tower in (image, text))
    vision |= {"image_size": image.size, "patch_size": image.size // image.grid[0]}
    words |= {"vocab_size": len(text.embedding), "max_position_embeddings": text.context, "eos_token_id": 2}
    size = len(state["text_projection.weight"])
    model = transformers.CLIPModel(
        transformers.CLIPConfig(vision_config=vision, text_config=words, projection_dim=size)
    )
    model.load_state_dict({name: value.contiguous() for name, value in state.items()})
    return Clip(f"{clip.name} in transformers", model, backend, clip._transform, clip._tokenizer, clip.device)


def as_open_clip(clip: Clip) -> Clip:
    """The same weights as an open_clip model, behind nibkit's own open_clip backend. Needs open_clip."""
    from open_clip.model import build_model_from_openai_state_dict

    from ..models import open_clip as backend

    model = build_model_from_openai_state_dict(dict(clip.model.state_dict()), cast_dtype=torch.float32).float()
    model.load_state_dict(clip.model.state_dict(), strict=False)  # open_clip's own loader went through float16
    return Clip(f"{clip.name} in open_clip", model, backend, clip._transform, clip._tokenizer, clip.device)


# ---- comparing explanations


def difference(a: Attribution, b: Attribution) -> float:
    """Largest difference between two explanations' scores, relative to the largest score of the first (1 = as
    large).
    """
    scores = [np.concatenate([x.image.ravel(), *x.text]) for x in (a, b)]
    return relative_difference(*scores)


def rank_agreement(a: Attribution, b: Attribution) -> pd.DataFrame:
    """Spearman's correlation of two explanations' patches and tokens: columns pair, image, text (nan for a flat
    map).
    """
    sides = {"image": (a.image, b.image), "text": (a.text, b.text)}
    rho = {k: [scipy.stats.spearmanr(x.ravel(), y.ravel()).statistic for x, y in zip(*s)] for k, s in sides.items()}
    return pd.DataFrame({"pair": range(len(a)), **rho})
