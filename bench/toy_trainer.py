"""TRL's trainers on a random two-layer Qwen3 and a tokenizer made here: nothing is downloaded. Shared by bench.trl and the tests."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

WORDS = 1024  # of the tokenizer; a model may have more
SAID = 24  # tokens that are sampled, the end of a sequence among them, so that completions have different lengths
TRAINERS: dict[str, tuple[Any, Any]] = {"grpo": (GRPOTrainer, GRPOConfig), "rloo": (RLOOTrainer, RLOOConfig)}


def make_tokenizer() -> PreTrainedTokenizerFast:
    words = {"<pad>": 0, "<eos>": 1} | {f"w{i}": i for i in range(2, WORDS)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", padding_side="left")


def make_model(vocabulary: int = WORDS, hidden: int = 64, seed: int = 0) -> Qwen3ForCausalLM:
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=hidden // 4, tie_word_embeddings=True, pad_token_id=0, eos_token_id=1, bos_token_id=None,
        initializer_range=0.05,
    )  # fmt: skip
    return Qwen3ForCausalLM(config)


def make_dataset(rows: int = 64, words: int = 2) -> Dataset:
    """Prompts of ``words`` to ``words`` + 4 tokens."""
    return Dataset.from_dict({"prompt": [" ".join(f"w{2 + (7 * i + j) % 900}" for j in range(words + i % 5)) for i in range(rows)]})


def reward(completion_ids: list[list[int]], **_: Any) -> list[float | None]:
    """Eighths, so that sums are exact: a group whose rewards are equal has no rounding in its mean."""
    return [sum(ids) % 8 / 8 + len(ids) / 8 for ids in completion_ids]


def make_trainer(
    kind: str,
    *,
    model: Any = None,
    reward_funcs: Any = reward,
    base: Callable[[Any], Any] = lambda x: x,
    eval_rows: int = 0,
    prompt_words: int = 2,
    **options: Any,
) -> Any:
    """``kind``: "grpo" or "rloo"; ``base`` may make a subclass of the trainer."""
    trainer, config = TRAINERS[kind]
    with tempfile.TemporaryDirectory() as folder:
        settings: dict[str, Any] = {
            "output_dir": folder, "use_cpu": True, "bf16": False, "report_to": [], "save_strategy": "no", "logging_steps": 1, "disable_tqdm": True,
            "learning_rate": 2e-4, "lr_scheduler_type": "constant", "per_device_train_batch_size": 8,
            "num_generations": 4, "max_completion_length": 12, "max_steps": 10, "seed": 7,
            "generation_kwargs": {"suppress_tokens": [0, *range(SAID, WORDS)]},
        }  # fmt: skip
        args = config(**(settings | options))
        model = make_model() if model is None else model
        if args.beta:  # TRL reads the reference model from where the model came from
            model.save_pretrained(folder)
            model.config._name_or_path = folder
        return base(trainer)(
            model=model,
            reward_funcs=reward_funcs,
            args=args,
            train_dataset=make_dataset(words=prompt_words),
            eval_dataset=make_dataset(eval_rows) if eval_rows else None,
            processing_class=make_tokenizer(),
        )
