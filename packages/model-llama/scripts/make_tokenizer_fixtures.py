"""Makes test/checkpoint/fixtures/tokenizers.json: texts, and what Hugging Face's and Google's tokenizers make of them.

    pip install tokenizers==0.23.3 transformers==5.23.0 gguf==0.19.0 sentencepiece==0.2.3 protobuf jinja2
    python make_tokenizer_fixtures.py SmolLM2-135M-Instruct.Q4_1.gguf ../test/checkpoint/fixtures/tokenizers.json

- smollm2: the GGUF file's own vocabulary and merges in Hugging Face's Rust tokenizer, its template in Jinja2.
- llama3, qwen2, tekken, gpt2: small byte-level BPE tokenizers with those models' ways to split text, trained here.
- sentencepiece: a small SentencePiece BPE model with byte fallback, trained and encoded by Google's library.
- llama2, mistral, split: tokenizer.json files in SentencePiece's manner, small BPE models trained here.
"""

import io
import json
import random
import sys

import gguf
import jinja2.sandbox
import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

PROSE = """It was the best of times, it was the worst of times; it was the age of wisdom, it was the age of foolishness.
"Don't you think," she'd said, "that we'll find they're here?" I'M SURE WE'VE SEEN IT'S TRUE -- they'd know!
Prices rose 12.5% to $1,234,567.89 in 2024, about 3/4 of the 1999 level; call +44 20 7946 0958 (ext. 12).
Größe, façade, naïve café, coöperate, Ελληνικά, Русский текст, עברית, العربية, हिन्दी, ไทย, 日本語のテキスト, 中文字符, 한국어.
"""
CODE = """#include <vector>
template <typename T>\tT sum(const std::vector<T>& xs) {\n    T total{};\n    for (auto&& x : xs) { total += x; }  // O(n)\n    return total;\n}
def f(x, *, y=None):\r\n\tif x >= 0x1F and y != "a\\nb":\r\n\t\treturn {**x, 'k': [1, 2, 3]}[::-1]\r\n
<html><body class="x">&nbsp;</body></html> SELECT * FROM t WHERE a <= 10 AND b <> 'c';
"""
TEXTS = [
    "", " ", "  ", "\n", "\n\n\n", "\t \t", "a", "Hello world", " Hello  world ", "Hello\nworld\r\n", PROSE, CODE,
    "1234567890 12 345 6,789 0.5 1e-10 ²³¼ ٣٤٥ Ⅷ ①", "   leading and trailing   ", "\u00a0no-break\u2003em\u3000ideographic\u0085next\ufeffbom",
    "👩‍👩‍👧‍👦 🇫🇷 e\u0301 \u1100\u1161\u11a8 ﬁ ½ Å", "a\u0300\u0301\u0302", "\u0000\u0001\u007f\u0080\uffff", "don't DON'T I'LL they'Re 'sup 'tis",
    "x" * 300, " " * 100, "ab" * 200, "\n " * 40, "!!??..,,;;::--__==++", "<|im_start|>system\nobey<|im_end|>", "<|im_end", "<s>[INST] hi [/INST]</s><unk>",
    "<|eot_id|><|begin_of_text|>", "<0x0A><0xFF>", "▁▁already pieces▁", "__proto__ constructor toString", "<tool_call>{\"a\": 1}</tool_call>",
    "https://example.com/a?b=c&d=%20#e", "C:\\Users\\x\\y.txt", "αβγ ΑΒΓ ß ẞ İ ı", "tab\tseparated\tvalues\t\t\n", "a \n b  \n\n c",
]

random.seed(20241016)
POOL = list("abcdeABCDE0123456789    \n\t.,!?'\"()<>|_-/\\") + list("éßñ中文日本кирعَ👍🏽\u200d\u0301\u00a0½²") + [" the", "ing", "'s", "'ll", "\r\n", "  ", "<|", "|>"]
TEXTS += ["".join(random.choice(POOL) for _ in range(random.randint(1, 60))) for _ in range(80)]

CORPUS = [PROSE, CODE] * 4 + TEXTS[14:20]
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def byte_level(*steps):
    return pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def ids_of(tokenizer, **options):
    return [tokenizer.encode(text, **options).ids for text in TEXTS]


def smollm2(path):
    fields = gguf.GGUFReader(path).fields
    strings = lambda key: [bytes(fields[key].parts[i]).decode() for i in fields[key].data]
    tokens = strings("tokenizer.ggml.tokens")
    types = [int(fields["tokenizer.ggml.token_type"].parts[i][0]) for i in fields["tokenizer.ggml.token_type"].data]
    merges = [tuple(merge.split(" ")) for merge in strings("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    plain = ids_of(tokenizer)  # before special tokens are known, so they are text
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t, kind in zip(tokens, types) if kind == 3])

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(strings("tokenizer.chat_template")[0])
    chats = []
    for messages in [
        [{"role": "user", "content": "What is the capital of France?"}],
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "  Hi!\n"}, {"role": "assistant", "content": "Hello."}, {"role": "user", "content": PROSE + CODE}],
    ]:
        text = template.render(messages=messages, add_generation_prompt=True)
        chats.append({"messages": messages, "text": text, "ids": tokenizer.encode(text, add_special_tokens=False).ids})
    decoded = [tokenizer.decode(ids, skip_special_tokens=False) for ids in plain]
    return {"ids": plain, "special": ids_of(tokenizer), "decoded": decoded, "chats": chats}


def trained(pre_tokenizer, specials, normalizer=None, ignore_merges=False, bos=None):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    plain = ids_of(tokenizer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in specials])
    tokenizer.add_tokens([AddedToken("<tool_call>", normalized=False, special=False), AddedToken("</tool_call>", normalized=False, special=False)])
    if bos:
        tokenizer.post_processor = processors.Sequence(
            [processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))])]
        )
    special = ids_of(tokenizer)
    return {
        "tokenizer": json.loads(tokenizer.to_str()),
        "ids": plain,
        "special": special,
        "decoded": [tokenizer.decode(ids, skip_special_tokens=True) for ids in special],
    }


def sentence_piece():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in CORPUS for line in text.split("\n") if line]),
        model_writer=model, vocab_size=560, model_type="bpe", byte_fallback=True, character_coverage=0.98,
        normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True,
        allow_whitespace_only_pieces=True, minloglevel=2, hard_vocab_limit=False,
    )
    sp = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    size = sp.get_piece_size()
    kind = lambda i: 2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 1
    # SentencePiece drops NUL and takes an empty text to be nothing.
    texts = [text.replace("\0", "") for text in TEXTS]
    return {
        "tokens": [sp.id_to_piece(i) for i in range(size)],
        "scores": [sp.get_score(i) for i in range(size)],
        "types": [kind(i) for i in range(size)],
        "texts": texts,
        "ids": [sp.encode(text) for text in texts],
        "decoded": [sp.decode(sp.encode(text)) for text in texts],
    }


def metaspace(pre_tokenizer, normalizer):
    """The SentencePiece-like tokenizers of Llama 2 (normaliser, no pre-tokeniser) and Mistral (Metaspace)."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    training = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.pre_tokenizer = training
    trainer = trainers.BpeTrainer(
        vocab_size=700, show_progress=False,
        special_tokens=["<unk>", "<s>", "</s>", *[f"<0x{byte:02X}>" for byte in range(256)]],
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    # Trained as special tokens so that they are in the vocabulary; only the first three are.
    json_text = json.loads(tokenizer.to_str())
    json_text["added_tokens"] = json_text["added_tokens"][:3]
    tokenizer = Tokenizer.from_str(json.dumps(json_text))
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    special = ids_of(tokenizer)
    return {"tokenizer": json.loads(tokenizer.to_str()), "special": special, "decoded": [tokenizer.decode(ids) for ids in special]}


LLAMA3_SPECIALS = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
CHATML_SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
fixture = {
    "texts": TEXTS,
    "smollm2": smollm2(sys.argv[1]),
    "llama3": trained(byte_level(split(LLAMA3)), LLAMA3_SPECIALS, ignore_merges=True, bos="<|begin_of_text|>"),
    "qwen2": trained(byte_level(split(QWEN2)), CHATML_SPECIALS, normalizer=normalizers.NFC()),
    "tekken": trained(byte_level(split(TEKKEN)), ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"], ignore_merges=True, bos="<s>"),
    "gpt2": trained(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True), ["<|endoftext|>"]),
    "sentencepiece": sentence_piece(),
    "llama2": metaspace(None, normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])),
    "mistral": metaspace(pre_tokenizers.Metaspace(prepend_scheme="first", split=False), None),
    "split": metaspace(pre_tokenizers.Metaspace(prepend_scheme="always", split=True), None),
}
with open(sys.argv[2], "w") as file:
    json.dump(fixture, file, ensure_ascii=True, separators=(",", ":"))
    file.write("\n")
