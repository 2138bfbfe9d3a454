/* Which side a record is on: one rule for every kind of data.
 *
 * A record is for validation when the first 8 bytes of sha256(key + "moonlight"), as a big-endian fraction of 2^64, are
 * not below 1 - val_fraction.  The key is what would have to be learned to know it: the text of a document, the
 * question of a conversation, or a record's own "id".  So the same text never lies on both sides, in whatever file. */
#ifndef ML_DATA_SPLIT_RULE_H
#define ML_DATA_SPLIT_RULE_H

#include "base/hash.h"

#include <stdbool.h>
#include <stddef.h>

/* val_fraction in [0, 1].  hash: begun and with nothing added, and so again afterwards. */
bool ml_split_rule_is_val(ml_sha256 *hash, const char *key, size_t n_bytes, double val_fraction);

#endif
