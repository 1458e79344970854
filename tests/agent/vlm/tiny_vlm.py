"""Two families of vision-language models as folders on disk, a few thousand random weights each.

Configurations, tokenizers, image and text processors are transformers' real classes; the vocabulary is learned from a
sentence. What such a model says means nothing, which makes it the hardest case for decoding that must end in JSON.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    GPT2Tokenizer,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    PreTrainedTokenizerBase,
    Qwen2Tokenizer,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

__all__ = ["FAMILIES", "tiny_idefics3", "tiny_qwen3_vl"]

SIDE_PX = 64  # what either sees of a picture: four tokens
CONTEXT = 16_384
SENTENCE = (
    'The left knee is bent backwards, the overlay misses the photograph: {"comment": "", "score": 12.5}'
)
QWEN_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}{% if c.type == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
IDEFICS_TEMPLATE = (
    "<|im_start|>{% for m in messages %}{{ m.role | capitalize }}: {% for c in m.content %}{% if c.type == 'image' %}"
    "<image>{% else %}{{ c.text }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


def tiny_qwen3_vl(folder: Path) -> Path:
    """Qwen3-VL, with its padded logits and its three-dimensional positions."""
    names = ("<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    tokenizer = Qwen2Tokenizer(**_vocabulary(), eos_token="<|im_end|>", extra_special_tokens=list(names))
    image, video, start, end = tokenizer.convert_tokens_to_ids(
        ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
    )
    config = Qwen3VLConfig(
        text_config={
            **_text(len(tokenizer) + 9),  # Qwen pads its logits beyond its vocabulary
            "head_dim": 8,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [2, 1, 1],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 4,
            "out_hidden_size": 32,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
        },
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    pixels = SIDE_PX * SIDE_PX
    _save(folder, Qwen3VLForConditionalGeneration, config, tokenizer, QWEN_TEMPLATE, "Qwen3VLProcessor")
    Qwen2VLImageProcessorPil(
        patch_size=16, merge_size=2, min_pixels=pixels, max_pixels=pixels
    ).save_pretrained(folder)
    return folder


def tiny_idefics3(folder: Path) -> Path:
    """The family of SmolVLM and Idefics3."""
    names = ("<|im_start|>", "<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>")
    end = "<|endoftext|>"
    tokenizer = GPT2Tokenizer(
        **_vocabulary(), unk_token=end, bos_token=end, eos_token="<end_of_utterance>", pad_token=end,
        extra_special_tokens=list(names),
    )  # fmt: skip
    config = Idefics3Config(
        text_config={
            **_text(len(tokenizer)),
            "model_type": "llama",
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": SIDE_PX,
            "patch_size": 16,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    _save(
        folder, Idefics3ForConditionalGeneration, config, tokenizer, IDEFICS_TEMPLATE, "Idefics3Processor",
        image_seq_len=4,
    )  # fmt: skip
    edge = {"longest_edge": SIDE_PX}
    Idefics3ImageProcessorPil(size=edge, max_image_size=edge).save_pretrained(folder)
    return folder


FAMILIES = {"qwen3_vl": tiny_qwen3_vl, "idefics3": tiny_idefics3}


def _vocabulary() -> dict:
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator([SENTENCE] * 4, trainer)
    learned = json.loads(tokenizer.to_str())["model"]
    return {"vocab": learned["vocab"], "merges": [tuple(pair) for pair in learned["merges"]]}


def _text(vocab_size: int) -> dict:
    return {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
    }


def _save(
    folder: Path,
    kind: type,
    config: object,
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    processor: str,
    **settings: object,
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        kind(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": processor, **settings}))
    (folder / "chat_template.jinja").write_text(template)
