"""HMR-Scorer, a baseline critic: a small network that scores one hypothesis from image features at its joints.

After ADHMR (ICML 2025, arXiv 2505.10250, section 3.2): image features are sampled at the projected joints of a
hypothesis, joined with its pose, and a small network predicts a score; `rl.scorers.hmr_scorer_training` fits it by
RankNet. The score of a hypothesis does not depend on the rest of the group.

| for each of 24 joints (`joints`) | channels                                                                  |
|----------------------------------|---------------------------------------------------------------------------|
| image                            | the encoder's pyramid and its finer grid, sampled at the projected joint  |
| heat                             | log of the joint's own heatmap there, relative to its peak                |
| mask                             | logit of the person's mask there                                          |
| offset                           | projected joint - detected keypoint: in crop units, and in its own sigmas |
| visibility                       | log sigma, logit of visibility                                            |
| position                         | projected joint in the crop, and whether it lies inside                   |
| body                             | joint relative to the pelvis, and minus that of the initial estimate, m   |
| rotation                         | 6D rotation: standardised, and its error against the estimate (below)     |

| for the whole body (`whole`)     | betas and pelvis: standardised, and their error against the estimate      |

The initial estimate is the regression head's x_0 = g with standard deviation r (`hmr.policy.policy`). The error against
it is (x_0 - g) / r, which gives the scorer the point estimate of the policy and its uncertainty.

Differs from ADHMR, whose scorer decodes HRNet features of its own training with a transformer: this one reads the given
frozen encoder, as the critique agent does, because it is trained on the few hundred images of the agent. For the same
reason several small networks, which differ only by their seed, are averaged.

A policy with another detector than the embedded one is scored with the shipped encoder and the shipped policy's
regression head, which was trained for it, as the critique agent does (`hmr.policy.joints_3d`): the policy's own head
cannot read these detections.
"""

from __future__ import annotations

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

from common.storage.files import PathLike, atomic_path, write_text
from common.storage.fingerprint import digest, weights_digest
from hmr.body.model import Body
from hmr.detection.embedded import EmbeddedDetector
from hmr.detection.encoder import EncoderOutput
from hmr.detection.person_encoder import PersonEncoder
from hmr.metrics.errors import about_pelvis
from hmr.policy.checkpoint import load_reader
from hmr.policy.parametrization import ROTATION_SIZE
from hmr.policy.policy import DiffusionPolicy, Features
from hmr.types import NUM_JOINTS, Box, Hypotheses, Sample

__all__ = [
    "HMRScorer",
    "HypothesisFeatures",
    "ImageFeatures",
    "ScorerShape",
    "hypothesis_features",
    "image_channels",
    "image_features",
    "reader_of",
]

FORMAT = 1
WEIGHTS, CARD = "hmr_scorer.safetensors", "hmr_scorer.json"
MAX_SIGMAS = 8.0  # offsets and errors are clamped here
LOG_FLOOR = -12.0  # of a heatmap, relative to its peak


@dataclass(frozen=True)
class ImageFeatures:
    """Outputs of the encoder for one sample, its internal grids, and the initial estimate of the regression head."""

    box: Box  # the square crop
    features: Features
    output: EncoderOutput
    grids: tuple[Float[Tensor, "1 _ _ _"], ...]  # pyramid, finer grid
    heat: Float[Tensor, "1 24 _ _"]  # log heatmaps, 0 at their peaks
    estimated_joints_m: Float[Tensor, "24 3"]  # relative to the pelvis


@dataclass(frozen=True)
class HypothesisFeatures:
    """Inputs of the networks for each hypothesis of one or more groups; in `joints` the image channels come first."""

    joints: Float[Tensor, "*groups group 24 channels"]
    whole: Float[Tensor, "*groups group numbers"]


@dataclass(frozen=True)
class ScorerShape:
    """Sizes of the networks; the encoder determines the first three."""

    image: int  # channels of `HypothesisFeatures.joints` sampled from grids
    joints: int  # all channels of `HypothesisFeatures.joints`
    whole: int
    width: int = 64
    bottleneck: int = 12  # of the image channels, because few images cannot train 150 of them
    members: int = 3
    dropout: float = 0.1


class _Member(nn.Module):
    """One network: a shared layer per joint, then the mean over joints joined with the whole body."""

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
    """The mean score of the members on standardised features."""

    joints_mean: Tensor
    joints_std: Tensor
    whole_mean: Tensor
    whole_std: Tensor

    def __init__(self, shape: ScorerShape, seed: int = 0) -> None:
        super().__init__()
        for name, size in (("joints", shape.joints), ("whole", shape.whole)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_std", torch.ones(size))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.members = nn.ModuleList(_Member(shape) for _ in range(shape.members))

    def fit_scale(
        self, joints: Float[Tensor, "rows 24 channels"], whole: Float[Tensor, "rows numbers"]
    ) -> None:
        """Set the means and standard deviations from the training features."""
        for name, rows in (("joints", joints.flatten(0, 1)), ("whole", whole)):
            getattr(self, f"{name}_mean").copy_(rows.mean(dim=0))
            getattr(self, f"{name}_std").copy_(rows.std(dim=0).clamp_min(1e-3))

    def standardise(self, features: HypothesisFeatures) -> HypothesisFeatures:
        return HypothesisFeatures(
            (features.joints - self.joints_mean) / self.joints_std,
            (features.whole - self.whole_mean) / self.whole_std,
        )

    def forward(self, features: HypothesisFeatures) -> Float[Tensor, "*groups group"]:
        inputs = self.standardise(features)
        return torch.stack([member(inputs.joints, inputs.whole) for member in self.members]).mean(dim=0)


class HMRScorer:
    """A `hmr.types.Scorer`: higher is better, and scores of different images can be compared.

    It uses the encoder and the regression head of `reader_of(policy)` and the joints of `body`, without training them.
    """

    name = "hmr-scorer"

    def __init__(self, policy: DiffusionPolicy, body: Body, shape: ScorerShape, seed: int = 0) -> None:
        self.reader, self.body, self.shape = reader_of(policy), body, shape
        self.network = _Ensemble(shape, seed).eval()

    @torch.no_grad()
    def score(self, sample: Sample, hypotheses: Hypotheses) -> list[float | None]:
        image = image_features(self.reader, self.body, sample)
        return list(self.network(hypothesis_features(self.reader, self.body, image, hypotheses)).tolist())

    def digest(self) -> str:
        """Content hash of the networks and of the encoder."""
        return weights_digest(self.network.state_dict(), before=_digest_of(self.reader))

    def save(self, folder: PathLike) -> Path:
        """Write the weights and their JSON card; returns the folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        card = {"format": FORMAT, "shape": asdict(self.shape), "policy": _digest_of(self.reader)}
        with atomic_path(folder / WEIGHTS) as partial:
            save_file(self.network.state_dict(), partial)
        write_text(folder / CARD, json.dumps(card, indent=1) + "\n")
        return folder

    @staticmethod
    def load(folder: PathLike, policy: DiffusionPolicy, body: Body) -> HMRScorer:
        """Raises FileNotFoundError if there is none, ValueError if it is broken or was trained with another encoder."""
        folder = Path(folder)
        if not (folder / CARD).exists():
            raise FileNotFoundError(f"{folder} holds no HMR-Scorer: there is no {CARD}")
        card = json.loads((folder / CARD).read_text())
        if card.get("format") != FORMAT or card["policy"] != _digest_of(reader_of(policy)):
            raise ValueError(
                f"the HMR-Scorer in {folder} was trained with another policy's encoder; train one for this policy"
            )
        scorer = HMRScorer(policy, body, ScorerShape(**card["shape"]))
        try:
            scorer.network.load_state_dict(load_file(folder / WEIGHTS))
        except (SafetensorError, RuntimeError) as error:
            raise ValueError(f"the HMR-Scorer in {folder} cannot be read: {error}") from error
        return scorer


def reader_of(policy: DiffusionPolicy) -> DiffusionPolicy:
    """Whose encoder and regression head read the images: the policy itself if it has the embedded detector, else the
    shipped one."""
    return policy if isinstance(policy.detector, EmbeddedDetector) else load_reader(str(policy.device))


def _embedded(reader: DiffusionPolicy) -> EmbeddedDetector:
    assert isinstance(reader.detector, EmbeddedDetector), "readers are those of `reader_of`"
    return reader.detector


def _digest_of(reader: DiffusionPolicy) -> str:
    return digest(_embedded(reader).digest(), reader.initial_estimate_digest())


@torch.no_grad()
def image_features(reader: DiffusionPolicy, body: Body, sample: Sample) -> ImageFeatures:
    """Run the encoder once on the crop of a sample."""
    detector = _embedded(reader)
    encoder = detector.encoder
    box = encoder.crop_box(sample.box)
    with _capture_grids(encoder) as grids:
        output = encoder.run_encoder([sample])
    features = reader.encode([sample], [detector.detection(output, sample)])
    estimate = reader.regress(features)[0]
    return ImageFeatures(
        box=box,
        features=features,
        output=output,
        grids=(grids["pyramid"], grids["detail"]),
        heat=grids["heat"] - grids["heat"].amax(dim=(2, 3), keepdim=True),
        estimated_joints_m=about_pelvis(body.joints(estimate.params))[0],
    )


@contextmanager
def _capture_grids(encoder: PersonEncoder) -> Iterator[dict[str, Tensor]]:
    """Collects the inputs of the encoder's heads inside the block: grids that `EncoderOutput` does not hold. With flip
    test (`hmr.detection.flip`) only the first row is kept, the crop itself, because positions refer to it."""
    grids: dict[str, Tensor] = {}

    def on_heatmap(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        volume = output.float().unflatten(1, (NUM_JOINTS, -1))
        grids.update(pyramid=inputs[0][:1].float(), heat=volume[:1].logsumexp(dim=2))

    def on_mask(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        grids.update(detail=inputs[0][:1].float())

    handles = [
        encoder.network.heatmap.register_forward_hook(on_heatmap),
        encoder.network.mask.register_forward_pre_hook(on_mask),
    ]
    try:
        yield grids
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def hypothesis_features(
    reader: DiffusionPolicy, body: Body, image: ImageFeatures, hypotheses: Hypotheses
) -> HypothesisFeatures:
    """The features in the table of the module's docstring, for every hypothesis of a group."""
    joints_cam_m = body.joints(hypotheses.params)
    position = _crop_units(hypotheses, joints_cam_m, image.box)
    rotations, whole = _pose_features(reader, image.features, hypotheses)
    relative_m = about_pelvis(joints_cam_m)
    columns = [
        *(_sample_grid(grid, position) for grid in image.grids),
        _sample_heat(image.heat, position),
        _sample_grid(image.output.mask_logit[:, None], position),
        *_offsets(image.output, position),
        position.clamp(-2, 2),
        (position.abs().amax(dim=-1, keepdim=True) <= 1).float(),
        relative_m,
        relative_m - image.estimated_joints_m,
        rotations,
    ]
    return HypothesisFeatures(torch.cat(columns, dim=-1), whole)


def image_channels(image: ImageFeatures) -> int:
    """Number of channels of `HypothesisFeatures.joints` that come from grids."""
    return sum(grid.shape[1] for grid in image.grids)


def _crop_units(
    hypotheses: Hypotheses, joints_cam_m: Float[Tensor, "group 24 3"], box: Box
) -> Float[Tensor, "group 24 2"]:
    """Projected joints, in [-1, 1] inside the crop."""
    projected_px = hypotheses.camera.project(joints_cam_m)
    return (projected_px - torch.tensor(box.center)) * (2 / box.side)


def _sample_grid(
    grid: Float[Tensor, "1 channels h w"], position: Float[Tensor, "group 24 2"]
) -> Float[Tensor, "group 24 channels"]:
    """Bilinear sampling; outside the crop the value at its border."""
    values = F.grid_sample(grid, position[None], padding_mode="border", align_corners=False)
    return values[0].permute(1, 2, 0)


def _sample_heat(
    heat: Float[Tensor, "1 24 h w"], position: Float[Tensor, "group 24 2"]
) -> Float[Tensor, "group 24 1"]:
    """The heatmap of each joint at the projection of that joint."""
    joint = torch.arange(NUM_JOINTS)
    return _sample_grid(heat, position)[:, joint, joint, None].clamp_min(LOG_FLOOR)


def _offsets(
    output: EncoderOutput, position: Float[Tensor, "group 24 2"]
) -> list[Float[Tensor, "group 24 _"]]:
    """Signed offsets from the keypoints and their lengths, in crop units and in sigmas, and the joints' visibility."""
    offset = position - output.keypoints[0]
    sigma = output.log_sigma[0].exp()[:, None]
    visibility = torch.stack([output.log_sigma[0], output.visible_logit[0]], dim=-1)
    lengths = [offset.norm(dim=-1, keepdim=True), (offset / sigma).norm(dim=-1, keepdim=True)]
    return [
        offset.clamp(-2, 2),
        (offset / sigma).clamp(-MAX_SIGMAS, MAX_SIGMAS),
        *(length.clamp_max(MAX_SIGMAS) for length in lengths),
        visibility.expand(len(position), -1, -1),
    ]


def _pose_features(
    reader: DiffusionPolicy, features: Features, hypotheses: Hypotheses
) -> tuple[Float[Tensor, "group 24 12"], Float[Tensor, "group numbers"]]:
    """Rotations per joint, and betas with the pelvis: standardised, and as errors against the initial estimate."""
    params = hypotheses.params
    x0 = reader.to_x0(type(params).stack([params]), features)[0]
    estimate = features.condition[0, -x0.shape[-1] :]
    error = (x0 - estimate) / reader.initial_std
    both = torch.stack([x0, error], dim=-1).clamp(-MAX_SIGMAS, MAX_SIGMAS)
    rotations = both[:, :ROTATION_SIZE].reshape(len(both), NUM_JOINTS, 12)
    return rotations, both[:, ROTATION_SIZE:].flatten(1)
