# pyright: strict
"""Every public name in a typed program. It is checked by `make lint` and not run; tests/test_public_api.py reads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from meshcritic import (
    COCO17,
    COCO_LIMBS,
    EMBEDDED_BODY,
    LAB_SCENES,
    PCK_THRESHOLDS,
    SMPL_FOR_COCO_LIMBS,
    Annotation,
    AnswerReceived,
    Arrangement,
    ArrangementCritique,
    ArrangementEvidence,
    ArrangementTool,
    ArrangementVerdict,
    Body,
    BodyParams,
    Box,
    Budget,
    Cached,
    CallPart,
    Camera,
    Capabilities,
    Case,
    CritiqueAgent,
    CritiqueEvent,
    CritiqueFinished,
    CritiqueSettings,
    CritiqueTool,
    DataPart,
    DatasetSource,
    Detection,
    DetectionGuidance,
    Detector,
    DiffusionPolicy,
    DiffusionPolicyConfig,
    Draws,
    EmbeddedDetector,
    Evidence,
    FeatureCache,
    GroupCritique,
    GroupPreferenceConfig,
    GroupPreferenceTrainer,
    Hypotheses,
    ImagePart,
    Keypoints,
    MalformedReply,
    NodeFinished,
    NodeStarted,
    Part,
    PenalisedAgent,
    PeopleCritique,
    PersonEncoder,
    PersonEncoderConfig,
    PlacedPeople,
    PolicyAdapter,
    QuestionSent,
    RayActors,
    Reply,
    ReplyCache,
    ReviewAnswer,
    ReviewRequest,
    ReviewRequested,
    RewardMix,
    Sample,
    SceneMaker,
    Scorer,
    ScoresRevised,
    Search,
    SearchSettings,
    Span,
    TextPart,
    Trace,
    Unanswerable,
    VLMBackend,
    align,
    box_sides_px,
    build_preferences,
    build_preferences_by_actors,
    critique_graph,
    critique_many,
    critique_people,
    default_agent,
    learn_corrections,
    load_amass,
    load_backend,
    load_body,
    load_detector,
    load_encoder,
    load_policy,
    load_preferences,
    load_tools,
    main,
    open_checkpoints,
    open_default_memory,
    open_tool_servers,
    pck,
    prepare_dataset,
    read_annotations,
    read_hypotheses,
    read_photo,
    read_samples,
    sample_of,
    with_budget,
    write_hypotheses,
)


class ConstantBackend:
    """A VLM backend that gives every hypothesis the same score."""

    name, revision = "constant", "1"
    capabilities = Capabilities(images=True, concurrency=4)

    def generate(self, parts: Sequence[Part], schema: Mapping[str, Any], seed: int) -> Reply:
        if not any(isinstance(part, DataPart) and part.name == "evidence" for part in parts):
            raise Unanswerable("there is no evidence")
        texts = [part.text for part in parts if isinstance(part, TextPart | CallPart)]
        pictures = [part.png for part in parts if isinstance(part, ImagePart)]
        if not texts or not pictures:
            raise MalformedReply("a question has a text and pictures")
        return Reply(text='{"scores": {}}', ms=0.1)


class DepthTool:
    """A critique tool that measures the distance of the root from the camera."""

    name = "depth"
    needs = frozenset[Any]()

    def measure(self, case: Case) -> Evidence:
        depths = depths_m(case.hypotheses)
        sentences = tuple(f"the root is {depth:.1f} m away" for depth in depths)
        return Evidence(self.name, "root_depth_m", "m", tuple(depths), tuple(() for _ in depths), sentences)


class DepthScorer:
    name = "depth"

    def score(self, sample: Sample, hypotheses: Hypotheses) -> list[float | None]:
        return [-depth for depth in depths_m(hypotheses)]


def depths_m(hypotheses: Hypotheses) -> list[float]:
    return [depth.item() for depth in hypotheses.params.transl[:, 2]]


def people(photo: Path, policy: DiffusionPolicy) -> list[Sample]:
    image = read_photo(photo)
    detector: Detector = policy.detector
    return [sample_of(image, box) for box in detector.find(image)]


def hypotheses_of(samples: Sequence[Sample], body: Body, policy: DiffusionPolicy) -> list[Hypotheses]:
    detections: list[Detection] = [policy.detector.detect(sample) for sample in samples]
    features = policy.encode(samples, detections)
    guidance = DetectionGuidance(policy, body, features, detections)
    generator = torch.Generator().manual_seed(0)
    return list(policy.sample(features, 8, generator, guidance=guidance))


def rest_pose() -> BodyParams:
    return BodyParams(torch.zeros(3), torch.zeros(23, 3), torch.zeros(10), torch.zeros(3))


def one_hypothesis() -> Sample:
    camera, box = Camera.estimate(640, 480), Box(10.0, 10.0, 100.0, 200.0)
    return Sample("one", read_photo("photo.jpg"), box, camera)


def backend_with_cache(folder: Path) -> VLMBackend:
    return Cached(
        with_budget(load_backend("embedded"), Budget(max_calls=100)), ReplyCache(folder / "replies.sqlite")
    )


class PrintedSpans:
    """A trace exporter."""

    name = "print"

    def export(self, case: Span) -> None:
        print(case.name, [node.name for node in case.children])

    def close(self) -> None: ...


def critiques(photo: Path, memory: Path) -> list[GroupCritique]:
    policy, body = load_policy(), load_body(EMBEDDED_BODY)
    settings = CritiqueSettings(permutations=2)
    samples = people(photo, policy)
    with (
        open_default_memory(memory, policy, frozen=True) as opened,
        open_tool_servers(["python my_tools.py serve"]) as served,
        Trace(memory / "trace.jsonl", run_id="typed", exporters=[PrintedSpans()]) as trace,
    ):
        tools: list[CritiqueTool] = [*load_tools(["reprojection"]), DepthTool(), *served]
        agent: CritiqueAgent = default_agent(policy, body, opened, settings=settings, trace=trace)
        print(critique_graph.get_graph().draw_mermaid(), [tool.name for tool in tools])
        groups = hypotheses_of(samples, body, policy)
        return [agent.critique(sample, group) for sample, group in zip(samples, groups, strict=True)]


def shown(event: CritiqueEvent) -> str:
    if isinstance(event, NodeStarted | NodeFinished):
        return event.node
    if isinstance(event, QuestionSent | AnswerReceived):
        return event.task
    if isinstance(event, ScoresRevised):
        return event.revision.reason
    if isinstance(event, ReviewRequested):
        return str(event.request.scores)
    return str(event.critique.scores)


def reviewed(agent: CritiqueAgent, sample: Sample, group: Hypotheses, file: Path) -> GroupCritique | None:
    def first_is_wrong(sample: Sample, request: ReviewRequest) -> ReviewAnswer:
        return ReviewAnswer({0: 5.0}, {0: request.comments[0]})

    with open_checkpoints(file) as saver:
        print(saver, [shown(event) for event in agent.critique_stream(sample, group)])
    critique = agent.critique(sample, group, on_event=lambda event: print(event), reviewer=first_is_wrong)
    print(learn_corrections(agent, sample, critique))
    *_, last = agent.critique_stream(sample, group)
    return last.critique if isinstance(last, CritiqueFinished) else None


class Spread:
    """An arrangement tool that measures how far apart in depth the people are."""

    name = "spread"

    def measure(self, people: PlacedPeople) -> ArrangementEvidence:
        depths = people.posed.joints_cam_m[:, 0, 2]
        spread = (depths.max() - depths.min()).item()
        return ArrangementEvidence(self.name, "spread_m", "m", spread, (), f"They are {spread:.1f} m apart.")


def few_meters(evidence: Sequence[ArrangementEvidence]) -> ArrangementVerdict:
    far = max((item.value or 0.0 for item in evidence), default=0.0)
    return ArrangementVerdict(100.0 / (1.0 + far), "far" if far > 5 else "near")


def chosen(
    agent: CritiqueAgent, samples: Sequence[Sample], groups: Sequence[Hypotheses]
) -> Arrangement | None:
    tools: list[ArrangementTool] = [Spread()]
    people = list(zip(samples, groups, strict=True))
    found: PeopleCritique = critique_people(agent, people, tools=tools, scorer=few_meters)
    best: ArrangementCritique | None = found.best
    return best.arrangement if best else None


class Adapter(PolicyAdapter):
    """Another diffusion policy behind the adapter's three methods."""

    def features(self, samples: Sequence[Sample]) -> torch.Tensor:
        return torch.zeros(len(samples), 4)

    def sample(
        self, features: torch.Tensor, num_samples: int, generator: torch.Generator, noise_scale: float = 1.0
    ) -> Draws:
        x0 = noise_scale * torch.randn(len(features), num_samples, 9, generator=generator)
        return Draws(x0=x0, shown=x0.reshape(*x0.shape[:2], 3, 3))

    def denoising_error(
        self, features: torch.Tensor, x0: torch.Tensor, timesteps: torch.Tensor, noise: torch.Tensor
    ) -> torch.Tensor:
        return torch.zeros(x0.shape[0], x0.shape[1], timesteps.shape[1])


def aligned(samples: Sequence[Sample], out: Path) -> DiffusionPolicy:
    policy, scorer = load_policy(), depth_reward()
    groups = load_preferences(build_preferences(policy, scorer, samples, out, group_size=8))
    config = GroupPreferenceConfig(output_dir=str(out), loss_type="weighted", max_steps=10)
    trainer = GroupPreferenceTrainer(policy, config, groups)
    print(trainer.num_train_timesteps)
    return align(policy, groups, config)


def aligned_adapter(samples: Sequence[Sample], out: Path) -> Adapter:
    adapter = Adapter(num_train_timesteps=100)
    groups = load_preferences(build_preferences(adapter, depth_reward(), samples, out))
    return align(adapter, groups, GroupPreferenceConfig(output_dir=str(out), trainable="theirs"))


def depth_reward() -> Scorer:
    scorer: Scorer = DepthScorer()
    return RewardMix([scorer], reward_weights=[1.0])


def plausible(agent: CritiqueAgent) -> Scorer:
    scorer: Scorer = PenalisedAgent(agent, {"self_penetration_mm": 0.3})
    return scorer


def searched(policy: DiffusionPolicy, scorer: Scorer, samples: Sequence[Sample], out: Path) -> Path:
    search = Search(SearchSettings.of_size(20), policy.detector, load_body())
    return build_preferences(policy, scorer, samples, out, proposer=search)


def several(agent: CritiqueAgent, groups: Sequence[tuple[Sample, Hypotheses]]) -> list[GroupCritique]:
    return list(critique_many(agent, groups, in_flight=4))


def on_ray(samples: Sequence[Sample], out: Path) -> Path:
    actors = RayActors(policies=4, policy_gpus=0.25, critics=32, in_flight=8)
    return build_preferences_by_actors(load_policy, lambda policy: depth_reward(), samples, out, actors)


def read_my_set(folder: Path, split: str) -> Iterator[Annotation]:
    keypoints = Keypoints(COCO17, torch.zeros(17, 2), torch.ones(17))
    yield Annotation(f"{split}.jpg", "0", Box(0.0, 0.0, 10.0, 20.0), keypoints=(keypoints,))


def prepared(folder: Path, out: Path) -> list[str]:
    source = DatasetSource("mine", ("test",), "all people, 17 keypoints", read_my_set)
    annotations = read_annotations(prepare_dataset(source, folder, "test", out))
    return [annotations[sample.id].image for sample in read_samples(out)]


def pck_of(pred_px: torch.Tensor, true_px: torch.Tensor, boxes: list[Box]) -> list[float]:
    known = torch.ones(len(boxes), 12, dtype=torch.bool)
    limbs = pred_px[:, list(SMPL_FOR_COCO_LIMBS)], true_px[:, list(COCO_LIMBS)]
    return [pck(*limbs, known, box_sides_px(boxes), threshold).item() for threshold in PCK_THRESHOLDS]


def converted(photo: Path, file: Path) -> None:
    height, width = read_photo(photo).shape[:2]
    write_hypotheses(str(file.with_suffix(".copy.npz")), read_hypotheses(file, (width, height)))


def lab_samples(body: Body, motion: Path | None) -> list[Sample]:
    poses = load_amass(motion, fps=12) if motion else None
    return [scene.labelled.sample for scene in SceneMaker(body, LAB_SCENES, 7, poses).chunk(0, 2)]


def cached_features(folder: Path, pixels: torch.Tensor) -> torch.Tensor | None:
    cache = FeatureCache(folder, max_bytes=10**9)
    return cache.get(cache.key("dinov2", pixels))


def small_policy() -> DiffusionPolicy:
    return DiffusionPolicy(DiffusionPolicyConfig(width=32, depth=1))


def small_detector(folder: Path) -> EmbeddedDetector:
    encoder: PersonEncoder = load_encoder(folder)
    assert encoder.digest() != PersonEncoder(PersonEncoderConfig(crop_size=64)).digest()
    return EmbeddedDetector(encoder)


def detections(samples: Sequence[Sample]) -> list[Detection]:
    detector: Detector = load_detector("blazepose")
    return [detector.detect(sample) for sample in samples]


if __name__ == "__main__":
    main()
