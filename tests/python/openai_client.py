#!/usr/bin/env python3
"""Checks a running aitbc node with OpenAI's own Python client.

    python3 openai_client.py BASE_URL MODEL [EMBEDDING_MODEL]

or through AITBC_BASE_URL, AITBC_MODEL, AITBC_EMBEDDING_MODEL. BASE_URL ends in /v1. A node with a token is given it in
AITBC_TOKEN. Prints one line a check; exits 1 at the first that fails.
"""

import base64
import os
import struct
import sys
import time

import openai


def argument(index, variable, default=None):
    value = sys.argv[index] if len(sys.argv) > index else os.environ.get(variable, default)
    if value is None:
        sys.exit(f"{variable} is not set: {__doc__}")
    return value


BASE_URL = argument(1, "AITBC_BASE_URL")
MODEL = argument(2, "AITBC_MODEL")
EMBEDDING_MODEL = argument(3, "AITBC_EMBEDDING_MODEL", MODEL)
ASK = [{"role": "user", "content": "Name three planets of the solar system."}]

# No retries: a check that only passes the second time has failed.
client = openai.OpenAI(
    base_url=BASE_URL, api_key=os.environ.get("AITBC_TOKEN", "none"), max_retries=0, timeout=120
)

CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def refused(param, status=400, code=None, call=None, **request):
    """The request fails with `status` and the error names `param`."""
    call = call or client.chat.completions.create
    try:
        call(**request)
    except openai.APIStatusError as error:
        assert error.status_code == status, (error.status_code, status, error.body)
        assert error.body["param"] == param, (error.body, param)
        assert code is None or error.body["code"] == code, (error.body, code)
        assert error.body["message"] and error.body["type"], error.body
        if status == 400:
            assert isinstance(error, openai.BadRequestError), type(error)
        return error
    raise AssertionError(f"{request} was not refused")


def counted(usage):
    assert usage.prompt_tokens > 0 and usage.completion_tokens > 0, usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, usage


@check
def models_are_listed():
    names = [model.id for model in client.models.list()]
    assert MODEL in names, names
    model = client.models.retrieve(MODEL)
    assert model.object == "model" and model.owned_by, model
    assert model.aitbc["local"] or model.aitbc["providers"] > 0, model


@check
def an_unknown_model_is_not_found():
    try:
        client.models.retrieve("no-such-model")
    except openai.NotFoundError as error:
        assert error.code == "model_not_found", error.body
        return
    raise AssertionError("a model that nobody offers was found")


@check
def a_chat_is_answered():
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=ASK, max_tokens=16, temperature=0
    )
    answer = raw.parse()
    choice = answer.choices[0]
    assert answer.object == "chat.completion" and answer.model == MODEL, answer
    assert abs(answer.created - time.time()) < 300, answer.created
    assert len(answer.choices) == 1 and choice.index == 0, answer
    assert choice.message.role == "assistant" and choice.message.content, choice
    assert choice.finish_reason in ("stop", "length"), choice
    counted(answer.usage)
    assert answer.usage.completion_tokens <= 16, answer.usage
    assert answer.aitbc["job"] == raw.headers["x-aitbc-job"], (answer.aitbc, raw.headers)
    assert raw.headers["x-aitbc-provider"] == ", ".join(answer.aitbc["providers"]), raw.headers
    assert raw.headers.get("x-aitbc-receipt", "") == ", ".join(answer.aitbc["receipts"]), raw.headers
    assert answer.aitbc["paid_micro_credits"] >= 0, answer.aitbc


@check
def all_forms_of_messages_are_read():
    client.chat.completions.create(
        model=MODEL,
        max_completion_tokens=2,
        messages=[
            {"role": "developer", "content": "Answer in one word."},
            {"role": "user", "content": [{"type": "text", "text": "Is the sky"}, {"type": "text", "text": "blue?"}]},
            {"role": "assistant", "content": "Yes."},
            {"role": "user", "content": "And the sea?"},
        ],
        user="somebody",
        metadata={"a": "b"},
        store=False,
        n=1,
        response_format={"type": "text"},
    )


@check
def a_stream_tells_role_text_end_and_usage():
    stream = client.chat.completions.create(
        model=MODEL,
        messages=ASK,
        max_tokens=16,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    assert stream.response.headers["x-aitbc-job"], stream.response.headers
    assert stream.response.headers["content-type"].startswith("text/event-stream")
    chunks = list(stream)
    *texts, end, usage = chunks
    assert texts[0].choices[0].delta.role == "assistant", texts[0]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in texts)
    assert all(chunk.object == "chat.completion.chunk" and chunk.usage is None for chunk in [*texts, end])
    assert all(chunk.choices[0].finish_reason is None for chunk in texts)
    assert end.choices[0].finish_reason in ("stop", "length"), end
    assert usage.choices == [], usage
    counted(usage.usage)
    assert len({chunk.id for chunk in chunks}) == 1
    assert usage.aitbc["job"] == stream.response.headers["x-aitbc-job"], usage
    assert usage.aitbc["providers"][0] == stream.response.headers["x-aitbc-provider"], usage

    whole = client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=16, temperature=0)
    assert text == whole.choices[0].message.content, (text, whole.choices[0].message.content)


@check
def a_stream_without_usage_ends_with_its_account():
    chunks = list(client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=2, stream=True))
    assert all(chunk.usage is None for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason and chunks[-1].aitbc["job"], chunks[-1]


@check
def max_tokens_ends_an_answer():
    answer = client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=3, temperature=0)
    assert answer.choices[0].finish_reason == "length", answer
    assert answer.usage.completion_tokens == 3, answer.usage


@check
def stop_ends_an_answer_and_is_not_part_of_it():
    request = dict(model=MODEL, messages=ASK, max_tokens=24, temperature=0)
    text = client.chat.completions.create(**request).choices[0].message.content
    words = text.split()
    assert len(words) >= 2, text
    stop = words[1]
    for given in (stop, ["never in it \u2603", stop]):
        answer = client.chat.completions.create(**request, stop=given)
        assert answer.choices[0].finish_reason == "stop", answer
        assert answer.choices[0].message.content == text[: text.index(stop)], (answer, text)
    streamed = client.chat.completions.create(**request, stop=stop, stream=True)
    pieces = "".join(chunk.choices[0].delta.content or "" for chunk in streamed)
    assert pieces == text[: text.index(stop)], (pieces, text)


@check
def a_seed_repeats_an_answer():
    def ask(seed):
        answer = client.chat.completions.create(
            model=MODEL, messages=ASK, max_tokens=24, temperature=1.5, top_p=0.95, seed=seed
        )
        return answer.choices[0].message.content

    assert ask(7) == ask(7)
    assert len({ask(seed) for seed in range(5)}) > 1, "five seeds gave one answer"


@check
def a_chat_carries_log_probabilities():
    answer = client.chat.completions.create(
        model=MODEL, messages=ASK, max_tokens=4, temperature=0, logprobs=True, top_logprobs=3
    )
    tokens = answer.choices[0].logprobs.content
    assert len(tokens) == answer.usage.completion_tokens, tokens
    for token in tokens:
        assert token.logprob <= 0 and len(token.top_logprobs) == 3, token
        assert token.logprob == max(other.logprob for other in token.top_logprobs), token
        assert bytes(token.bytes).decode(errors="replace") is not None
    plain = client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=2, logprobs=True)
    assert all(token.top_logprobs == [] for token in plain.choices[0].logprobs.content), plain


@check
def a_text_is_completed():
    answer = client.completions.create(model=MODEL, prompt="Once upon a", max_tokens=6, temperature=0, logprobs=2)
    choice = answer.choices[0]
    assert answer.object == "text_completion" and choice.text, answer
    counted(answer.usage)
    logprobs = choice.logprobs
    count = answer.usage.completion_tokens
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == count, logprobs
    assert len(logprobs.top_logprobs) == len(logprobs.text_offset) == count, logprobs
    assert logprobs.text_offset[0] == 0, logprobs

    stream = client.completions.create(
        model=MODEL, prompt="Once upon a", max_tokens=6, temperature=0, stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == choice.text, (chunks, choice)
    assert chunks[-1].usage == answer.usage, (chunks[-1], answer.usage)


@check
def embeddings_agree_in_both_encodings():
    texts = ["a small dog", "a puppy", "tax law"]
    # The client asks for base64 by itself and decodes it.
    vectors = [item.embedding for item in client.embeddings.create(model=EMBEDDING_MODEL, input=texts).data]
    answer = client.embeddings.create(model=EMBEDDING_MODEL, input=texts, encoding_format="float")
    assert [item.index for item in answer.data] == [0, 1, 2], answer
    assert answer.usage.prompt_tokens > 0 and answer.usage.total_tokens == answer.usage.prompt_tokens
    for one, other in zip(vectors, [item.embedding for item in answer.data]):
        assert len(one) == len(other) > 0
        assert all(abs(a - b) < 1e-4 for a, b in zip(one, other)), "the encodings differ"
    encoded = client.embeddings.create(model=EMBEDDING_MODEL, input=texts[0], encoding_format="base64").data[0]
    if isinstance(encoded.embedding, str):
        raw = base64.b64decode(encoded.embedding)
        assert len(struct.unpack(f"<{len(raw) // 4}f", raw)) == len(vectors[0])


@check
def what_is_not_supported_is_refused_by_name():
    base = dict(model=MODEL, messages=ASK)
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    image = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    audio = [{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]
    refused("n", **base, n=2)
    refused("tools", **base, tools=[tool])
    refused("tool_choice", **base, tool_choice="required")
    refused("response_format", **base, response_format={"type": "json_object"})
    refused("modalities", **base, modalities=["text", "audio"])
    refused("logit_bias", **base, logit_bias={"1": 5})
    refused("presence_penalty", **base, presence_penalty=0.5)
    refused("frequency_penalty", **base, frequency_penalty=0.5)
    refused("store", **base, store=True)
    for content in (image, audio):
        refused("messages[0].content[0].type", model=MODEL, messages=[{"role": "user", "content": content}])
    refused("max_completion_tokens", **base, max_tokens=1, max_completion_tokens=2)
    refused("temperature", **base, temperature=3)
    refused("top_logprobs", **base, top_logprobs=2)
    unknown = refused("temprature", code="unknown_parameter", **base, extra_body={"temprature": 1})
    assert "temperature" in unknown.body["message"], unknown.body
    refused("aitbc", **base, extra_body={"aitbc": {"max_prise": 1}})
    complete = client.completions.create
    refused("prompt", call=complete, model=MODEL, prompt=[1, 2, 3])
    refused("echo", call=complete, model=MODEL, prompt="a", echo=True)
    refused("best_of", call=complete, model=MODEL, prompt="a", best_of=2)
    refused("suffix", call=complete, model=MODEL, prompt="a", suffix="b")
    embed = client.embeddings.create
    refused("dimensions", call=embed, model=EMBEDDING_MODEL, input="a", dimensions=8)
    refused("input", call=embed, model=EMBEDDING_MODEL, input=[[1, 2, 3]])


@check
def a_model_that_nobody_serves_has_no_provider():
    for stream in (False, True):
        error = refused(
            "model", status=503, code="no_provider", model="no-such-model:1b", messages=ASK, stream=stream
        )
        assert error.response.headers["x-should-retry"] == "false", error.response.headers


@check
def a_price_ceiling_is_kept():
    # Free answers of the node's own engine have no price to be above anything.
    wishes = {"aitbc": {"max_price": 0, "remote_only": True}}
    try:
        answer = client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=2, extra_body=wishes)
    except openai.APIStatusError as error:
        assert error.status_code in (402, 503), error.body
    else:
        assert answer.aitbc["paid_micro_credits"] == 0, answer.aitbc


@check
def a_stream_that_is_left_early_leaves_the_node_well():
    for _ in range(3):
        stream = client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=2000, stream=True)
        next(iter(stream))
        stream.close()
    client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=2)


def main():
    for function in CHECKS:
        name = function.__name__.replace("_", " ")
        started = time.monotonic()
        try:
            function()
        except Exception:
            print(f"FAILED  {name}", flush=True)
            raise
        print(f"ok      {name} ({time.monotonic() - started:.2f} s)", flush=True)


if __name__ == "__main__":
    main()
