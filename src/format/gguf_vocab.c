#include "format/gguf_vocab.h"

#define CONTRACTION "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
/* U+4E00 to U+9FA5, U+3040 to U+309F, U+30A0 to U+30FF */
#define HAN_AND_KANA "[\xE4\xB8\x80-\xE9\xBE\xA5\xE3\x81\x80-\xE3\x82\x9F\xE3\x82\xA0-\xE3\x83\xBF]+"

const ml_gguf_pre ml_gguf_pres[ML_GGUF_N_PRE] = {
    { "gpt-2", { "gpt2" }, false, false, false },
    { "kimi-k2", { "moonlight" }, true, false, false },
    { "llama-bpe", { "gpt4" }, true, true, false },
    { "llama3", { "gpt4" }, true, true, false },
    { "llama-v3", { "gpt4" }, true, true, false },
    { "qwen2",
      { CONTRACTION
        "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+" },
      false,
      false,
      true },
    { "deepseek-v3",
      { "\\p{N}{1,3}", HAN_AND_KANA,
        "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| "
        "?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+" },
      false,
      false,
      false },
};
