/* Hand-written scanners of the named split patterns: the end of the piece that begins at `at`, at < n, in text[0..n),
 * which is valid UTF-8. */
#ifndef ML_TOKEN_SCAN_H
#define ML_TOKEN_SCAN_H

#include <stddef.h>
#include <stdint.h>

typedef size_t (*ml_scan_fn)(const uint8_t *text, size_t at, size_t n);

size_t ml_scan_gpt2(const uint8_t *text, size_t at, size_t n);
size_t ml_scan_gpt4(const uint8_t *text, size_t at, size_t n);
size_t ml_scan_moonlight(const uint8_t *text, size_t at, size_t n);

/* Length in bytes of the valid UTF-8 that text[0..n) begins with. */
size_t ml_utf8_valid_prefix(const uint8_t *text, size_t n);
/* Bytes of the UTF-8 character that p[0..n) begins with, n >= 1: 1..4; 0 when it is invalid; -1 when the n bytes are
 * the beginning of one. */
int ml_utf8_length(const uint8_t *p, size_t n);

#endif
