/* Conversations that say something and come back to it: JSON lines for sft without a download.
 *
 *   {"id", "messages": [{"role", "content"}, ...], "facts": [{"message": 3, "value": "Lily", "among": 64, "held_out":
 * false}, ...], "provenance"}
 *
 * The user says one thing or two about himself (a name, a friend, a dog, a color, a place, an animal), the assistant
 * takes note without repeating them, and the user asks for one, perhaps for the other too, perhaps after a word of
 * thanks.  A fact is a message of the assistant, the value it must have and how many values there are of its kind.  As
 * single questions all is said and asked in one message.
 *
 * Of thirteen ways to say each thing, and as many to ask for it, three are kept out of training and are those of
 * validation, and so are some of what else the user and the system say.  What the assistant says is the same in both.
 * Of its values every fifth of each kind is kept out of training; in validation every second value is one of those. */
#ifndef ML_DATA_SYNTH_CHAT_H
#define ML_DATA_SYNTH_CHAT_H

#include "base/log.h"
#include "data/dataset.h"

enum { ML_CHAT_MESSAGES = 10, ML_CHAT_TEXT = 256, ML_CHAT_FACTS = 2 };

typedef struct {
    size_t message; /* the one that must say it */
    char value[64];
    size_t among;
    bool held_out; /* the value is none of training's */
} ml_chat_fact;

/* One conversation; who speaks takes turns, the user first, behind the system's message if there is one. */
typedef struct {
    bool has_system;
    char text[ML_CHAT_MESSAGES][ML_CHAT_TEXT];
    size_t n_message;
    ml_chat_fact fact[ML_CHAT_FACTS];
    size_t n_fact;
} ml_chat_example;

/* "system", "user", "assistant" */
const char *ml_chat_example_role(const ml_chat_example *x, size_t message);

/* Conversation `index` of `seed`: always the same. */
void ml_chat_draw(uint64_t seed, uint64_t index, ml_data_split split, bool single, ml_chat_example *out);

typedef struct {
    const char *out;
    ml_data_split split;
    bool single;         /* questions with one answer */
    uint64_t n_document; /* so many lines */
    uint64_t seed;
    ml_progress *progress; /* in documents; may be NULL */
} ml_synth_chat_config;

/* The file appears complete or, after a stop (ML_ECANCEL) or failure, not at all. */
ml_status ml_data_synth_chat(const ml_synth_chat_config *config, uint64_t *n_bytes, ml_error *err);

#endif
