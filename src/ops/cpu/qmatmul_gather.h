/* `gather` of qmatmul_kernel.h; the including file has gather_unit, which does one block of each row. */
static void gather(const ml_q_format *f, const uint8_t *const *row, size_t at, int64_t n_unit, const char *ahead,
                   void *dst)
{
    size_t block_bytes = (size_t)f->n_word * 4 + (f->half_at >= 0 ? 2 : 0);
    char *to = dst;
    for (int64_t u = 0; u < n_unit; u++) {
        uint32_t(*word)[ML_Q_ROWS] = (void *)to;
        gather_unit(f, row, at, ahead, word, (uint16_t *)(void *)word[f->n_word]);
        at += block_bytes;
        ahead += ML_Q_ROWS * block_bytes;
        to += ML_Q_ROWS * block_bytes;
    }
}
