"""HMR-Scorer, the baseline critic: one hypothesis and what the encoder saw at its joints -> one score.

After ADHMR (ICML 2025, arXiv 2505.10250, section 3.2): image features are sampled where a hypothesis' joints project,
joined with its pose, and a small network scores it; `rl.scorers.hmr_scorer_training` fits it by RankNet. A hypothesis is scored
by itself: who else is in the group does not matter.

| for each of 24 joints (`joints`) | channels                                                                  |
|----------------------------------|---------------------------------------------------------------------------|
| image                            | the encoder's pyramid and its finer grid, sampled at the projected joint  |
| heat                             | log of the joint's own heatmap there, below its peak                      |
| mask                             | logit of the person's mask there                                          |
| offset                           | projected joint - detected keypoint: in crop units, and in its own sigmas |
| sight                            | log sigma, logit of being seen                                            |
| place                            | projected joint in the crop, and whether it lies inside                   |
| body                             | joint about the pelvis, and the same less that of the guess, metres       |
| turn                             | 6D rotation: standardised, and its error under the guess (below)          |

| for the whole body (`whole`)     | betas and seen pelvis: standardised, and their error under the guess      |

The guess is the regression head's x_0 = g with deviation r (`hmr.policy.policy`); the error under it is (x_0 - g) / r, so that
the scorer knows what the policy would answer at once and how sure of it pretraining was.

Differs from ADHMR: its scorer decodes with a transformer on HRNet features of its own training; this one reads the
frozen encoder that it is given, as the critique agent does, because it has the agent's few hundred images to learn
from. Several small networks are averaged for the same reason. The networks differ by their seed alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from hmr.body.model import Body
from hmr.metrics.errors import about_pelvis
from hmr.policy.encoder import EncoderOutput
from hmr.policy.parametrization import ROTATION_SIZE, geometry_of
from hmr.policy.policy import DiffusionPolicy, Features
from hmr.types import NUM_JOINTS, Box, Hypotheses, Sample

__all__ = [
    "HMRScorer",
    "Look",
    "ScorerShape",
    "Signs",
    "image_channels",
    "look",
    "signs_of",
]

FORMAT = 1
WEIGHTS, CARD = "hmr_scorer.safetensors", "hmr_scorer.json"
MAX_SIGMAS = 8.0  # an offset beyond so many deviations is no worse
LOG_FLOOR = -12.0  # of a heatmap, below its peak


@dataclass(frozen=True)
class Look:
    """What the encoder saw of one sample, grids included, and the regression head's answer."""

    box: Box  # the square crop
    features: Features
    seen: EncoderOutput
    grids: tuple[Float[Tensor, "1 _ _ _"], ...]  # pyramid, finer grid
    heat: Float[Tensor, "1 24 _ _"]  # logs of the heatmaps, 0 at their peaks
    guess_joints_m: Float[Tensor, "24 3"]  # about the pelvis


@dataclass(frozen=True)
class Signs:
    """What the networks read of each hypothesis, of one group or more; the image's channels come first in `joints`."""

    joints: Float[Tensor, "*groups group 24 channels"]
    whole: Float[Tensor, "*groups group numbers"]


@dataclass(frozen=True)
class ScorerShape:
    """Sizes of the networks; the first three are the encoder's."""

    image: int  # channels of `Signs.joints` that were sampled from grids
    joints: int  # all of them
    whole: int
    width: int = 64
    bottleneck: int = 12  # of the image's channels: few images cannot teach 150
    members: int = 3
    dropout: float = 0.1


class _Member(nn.Module):
    """One network: the same for every joint, then the mean over joints beside the whole body."""

    def __init__(self, shape: ScorerShape) -> None:
        super().__init__()
        self.image_size = shape.image
        self.image = nn.Linear(shape.image, shape.bottleneck)
        self.name = nn.Parameter(torch.zeros(NUM_JOINTS, shape.width))
        self.joint_in = nn.Linear(shape.bottleneck + shape.joints - shape.image, shape.width)
        self.joint_out = nn.Linear(shape.width, shape.width)
        self.whole_in = nn.Linear(shape.whole, shape.width)
        self.hidden = nn.Linear(2 * shape.width, shape.width)
        self.score = nn.Linear(shape.width, 1)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(
        self, joints: Float[Tensor, "*batch 24 channels"], whole: Float[Tensor, "*batch numbers"]
    ) -> Float[Tensor, "*batch"]:
        image, rest = joints[..., : self.image_size], joints[..., self.image_size :]
        each = F.silu(self.joint_in(torch.cat([self.image(image), rest], dim=-1)) + self.name)
        body = F.silu(self.joint_out(self.dropout(each))).mean(dim=-2)
        both = torch.cat([body, F.silu(self.whole_in(whole))], dim=-1)
        return self.score(F.silu(self.hidden(self.dropout(both))))[..., 0]


class _Ensemble(nn.Module):
    """The mean of the members' scores over standardised signs."""

    joints_mean: Tensor
    joints_std: Tensor
    whole_mean: Tensor
    whole_std: Tensor

    def __init__(self, shape: ScorerShape, seed: int = 0) -> None:
        super().__init__()
        for name, size in (("joints", shape.joints), ("whole", shape.whole)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_std", torch.ones(size))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.members = nn.ModuleList(_Member(shape) for _ in range(shape.members))

    def fit_scale(
        self, joints: Float[Tensor, "rows 24 channels"], whole: Float[Tensor, "rows numbers"]
    ) -> None:
        """Remember means and deviations of the signs that the members will learn from."""
        for name, rows in (("joints", joints.flatten(0, 1)), ("whole", whole)):
            getattr(self, f"{name}_mean").copy_(rows.mean(dim=0))
            getattr(self, f"{name}_std").copy_(rows.std(dim=0).clamp_min(1e-3))

    def standardise(self, signs: Signs) -> Signs:
        return Signs(
            (signs.joints - self.joints_mean) / self.joints_std,
            (signs.whole - self.whole_mean) / self.whole_std,
        )

    def forward(self, signs: Signs) -> Float[Tensor, "*groups group"]:
        known = self.standardise(signs)
        return torch.stack([member(known.joints, known.whole) for member in self.members]).mean(dim=0)


class HMRScorer:
    """A `hmr.types.Scorer`: higher is better, and scores of different images may be compared.

    `policy` lends its encoder and regression head, `body` its joints; both are read, never trained.
    """

    name = "hmr-scorer"

    def __init__(self, policy: DiffusionPolicy, body: Body, shape: ScorerShape, seed: int = 0) -> None:
        self.policy, self.body, self.shape = policy, body, shape
        self.network = _Ensemble(shape, seed).eval()

    @torch.no_grad()
    def score(self, sample: Sample, hypotheses: Hypotheses) -> list[float | None]:
        signs = signs_of(self.policy, self.body, look(self.policy, self.body, sample), hypotheses)
        return list(self.network(signs).tolist())

    def digest(self) -> str:
        """Content hash of the networks and of the eyes that they see through."""
        state = hashlib.sha256(self.policy.encoder_digest().encode())
        for name, tensor in sorted(self.network.state_dict().items()):
            state.update(name.encode() + tensor.cpu().numpy().tobytes())
        return state.hexdigest()[:16]

    def save(self, folder: Path) -> Path:
        """Writes weights and card, each in one step; the folder comes back."""
        folder.mkdir(parents=True, exist_ok=True)
        card = {"format": FORMAT, "shape": asdict(self.shape), "eyes": self.policy.encoder_digest()}
        partial = folder / f"{WEIGHTS}.partial"
        save_file(self.network.state_dict(), partial)
        partial.replace(folder / WEIGHTS)
        partial = folder / f"{CARD}.partial"
        partial.write_text(json.dumps(card, indent=1) + "\n")
        partial.replace(folder / CARD)
        return folder

    @staticmethod
    def load(folder: Path, policy: DiffusionPolicy, body: Body) -> HMRScorer:
        """Raises FileNotFoundError where none was saved, ValueError where it was fitted through other eyes or is
        broken."""
        if not (folder / CARD).exists():
            raise FileNotFoundError(f"{folder} holds no HMR-Scorer: there is no {CARD}")
        card = json.loads((folder / CARD).read_text())
        if card.get("format") != FORMAT or card["eyes"] != policy.encoder_digest():
            raise ValueError(
                f"the HMR-Scorer in {folder} was fitted on another policy's encoder; train one for this"
            )
        scorer = HMRScorer(policy, body, ScorerShape(**card["shape"]))
        try:
            scorer.network.load_state_dict(load_file(folder / WEIGHTS))
        except (SafetensorError, RuntimeError) as error:
            raise ValueError(f"the HMR-Scorer in {folder} cannot be read: {error}") from error
        return scorer


@torch.no_grad()
def look(policy: DiffusionPolicy, body: Body, sample: Sample) -> Look:
    """One pass of the encoder over a sample's crop."""
    box = policy.crop_box(sample.box)
    with _grids_of(policy) as caught:
        seen = policy.run_encoder([sample])
    geometry = geometry_of([sample.camera], [box])
    features = Features(policy.condition(policy.encoder_features(seen, geometry)), geometry)
    guess = policy.regress(features)[0]
    return Look(
        box=box,
        features=features,
        seen=seen,
        grids=(caught["pyramid"], caught["detail"]),
        heat=caught["heat"] - caught["heat"].amax(dim=(2, 3), keepdim=True),
        guess_joints_m=about_pelvis(body.joints(guess.params))[0],
    )


@contextmanager
def _grids_of(policy: DiffusionPolicy) -> Iterator[dict[str, Tensor]]:
    """What the encoder's heads are given inside the `with` block: grids that its answer does not hold. Of a policy that
    looks twice (`hmr.policy.flip`) the first row, the crop itself: places are those of the crop."""
    caught: dict[str, Tensor] = {}

    def on_heatmap(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        volume = output.float().unflatten(1, (NUM_JOINTS, -1))
        caught.update(pyramid=inputs[0][:1].float(), heat=volume[:1].logsumexp(dim=2))

    def on_mask(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        caught.update(detail=inputs[0][:1].float())

    handles = [
        policy.encoder.heatmap.register_forward_hook(on_heatmap),
        policy.encoder.mask.register_forward_pre_hook(on_mask),
    ]
    try:
        yield caught
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def signs_of(policy: DiffusionPolicy, body: Body, seen_by: Look, hypotheses: Hypotheses) -> Signs:
    """The table of the module's docstring, for every hypothesis of a group."""
    joints_cam_m = body.joints(hypotheses.params)
    place = _crop_units(hypotheses, joints_cam_m, seen_by.box)
    turned, whole = _pose_signs(policy, seen_by.features, hypotheses)
    relative_m = about_pelvis(joints_cam_m)
    columns = [
        *(_sampled(grid, place) for grid in seen_by.grids),
        _heat_at(seen_by.heat, place),
        _sampled(seen_by.seen.mask_logit[:, None], place),
        *_offsets(seen_by.seen, place),
        place.clamp(-2, 2),
        (place.abs().amax(dim=-1, keepdim=True) <= 1).float(),
        relative_m,
        relative_m - seen_by.guess_joints_m,
        turned,
    ]
    return Signs(torch.cat(columns, dim=-1), whole)


def image_channels(seen_by: Look) -> int:
    """How many channels of `Signs.joints` come from grids."""
    return sum(grid.shape[1] for grid in seen_by.grids)


def _crop_units(
    hypotheses: Hypotheses, joints_cam_m: Float[Tensor, "group 24 3"], box: Box
) -> Float[Tensor, "group 24 2"]:
    """Projected joints, -1 to 1 from border to border of the crop."""
    projected_px = hypotheses.camera.project(joints_cam_m)
    return (projected_px - torch.tensor(box.center)) * (2 / box.side)


def _sampled(
    grid: Float[Tensor, "1 channels h w"], place: Float[Tensor, "group 24 2"]
) -> Float[Tensor, "group 24 channels"]:
    """Bilinear; outside the crop the value at its border."""
    found = F.grid_sample(grid, place[None], padding_mode="border", align_corners=False)
    return found[0].permute(1, 2, 0)


def _heat_at(
    heat: Float[Tensor, "1 24 h w"], place: Float[Tensor, "group 24 2"]
) -> Float[Tensor, "group 24 1"]:
    """Each joint's own heatmap where that joint projects."""
    joint = torch.arange(NUM_JOINTS)
    return _sampled(heat, place)[:, joint, joint, None].clamp_min(LOG_FLOOR)


def _offsets(seen: EncoderOutput, place: Float[Tensor, "group 24 2"]) -> list[Float[Tensor, "group 24 _"]]:
    """Signed offsets from the keypoints, their length, both again in sigmas, and how well each joint is seen."""
    offset = place - seen.keypoints[0]
    sigma = seen.log_sigma[0].exp()[:, None]
    sight = torch.stack([seen.log_sigma[0], seen.visible_logit[0]], dim=-1).expand(len(place), -1, -1)
    lengths = [offset.norm(dim=-1, keepdim=True), (offset / sigma).norm(dim=-1, keepdim=True)]
    return [
        offset.clamp(-2, 2),
        (offset / sigma).clamp(-MAX_SIGMAS, MAX_SIGMAS),
        *(length.clamp_max(MAX_SIGMAS) for length in lengths),
        sight,
    ]


def _pose_signs(
    policy: DiffusionPolicy, features: Features, hypotheses: Hypotheses
) -> tuple[Float[Tensor, "group 24 12"], Float[Tensor, "group numbers"]]:
    """Rotations joint by joint, and betas with the seen pelvis: standardised, and as errors under the guess."""
    params = hypotheses.params
    x0 = policy.to_x0(type(params).stack([params]), features)[0]
    guess = features.condition[0, -x0.shape[-1] :]
    error = (x0 - guess) / policy.guess_std
    both = torch.stack([x0, error], dim=-1).clamp(-MAX_SIGMAS, MAX_SIGMAS)
    turned = both[:, :ROTATION_SIZE].reshape(len(both), NUM_JOINTS, 12)
    return turned, both[:, ROTATION_SIZE:].flatten(1)
