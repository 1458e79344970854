"""The packaged sentence model, all-MiniLM-L6-v2, on transformers alone.

sentence-transformers imports scikit-learn, pandas, peft and datasets, about a third of the time that a first score
takes, and the agent embeds a sentence for every person. The model is a BERT whose outputs are averaged and scaled to
length 1; a test compares the vectors with those of sentence-transformers, bit by bit.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from jaxtyping import Float32
from tokenizers import Tokenizer
from torch import Tensor
from transformers.models.bert.modeling_bert import BertModel

__all__ = ["MiniLM"]


class MiniLM:
    """The model in `folder`, which has the files of a sentence-transformers model."""

    def __init__(self, folder: Path) -> None:
        self._bert = BertModel.from_pretrained(folder, local_files_only=True, add_pooling_layer=False).eval()
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        limits = json.loads((folder / "sentence_bert_config.json").read_text(encoding="utf-8"))
        self._tokenizer.enable_truncation(limits["max_seq_length"])

    @property
    def dim(self) -> int:
        return self._bert.config.hidden_size

    @torch.no_grad()
    def encode(self, text: str) -> Float32[Tensor, "dim"]:
        tokens = torch.tensor([self._tokenizer.encode(text).ids])
        states = self._bert(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state
        # a sum and a division, as sentence-transformers computes it; mean() differs in the last bit
        mean = states.sum(dim=1) / tokens.shape[1]
        return torch.nn.functional.normalize(mean, dim=1)[0]
