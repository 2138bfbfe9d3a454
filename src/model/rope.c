/* The angles of the rotary embedding, and the scale of the scores that goes with them. */
#include "model/layout.h"

#include <math.h>

/* YaRN (arXiv:2309.00071, section 3.2): frequencies that turn more than beta_fast times over the trained context
 * stay, those under beta_slow are stretched by `factor`, and a ramp lies between. */
static double yarn_magnitude(double factor, double mscale)
{
    return factor <= 1 ? 1.0 : 0.1 * mscale * log(factor) + 1.0;
}

static double yarn_turning_dim(double n_turns, double dim, double theta, double positions)
{
    return dim * log(positions / (n_turns * 2 * M_PI)) / (2 * log(theta));
}

double ml_config_llama3_divisor(const ml_config *c, int64_t i)
{
    if (c->llama3_factor == 1) return 1;
    double freq = pow(c->rope_theta, -2.0 * (double)i / (double)c->rotary_dim), factor = c->llama3_factor;
    double turns = (double)c->llama3_original_positions * freq / (2 * M_PI);
    if (turns < c->llama3_low_freq_factor) return factor;
    if (turns > c->llama3_high_freq_factor) return 1;
    double smooth = (turns - c->llama3_low_freq_factor) / (c->llama3_high_freq_factor - c->llama3_low_freq_factor);
    return 1 / ((1 - smooth) / factor + smooth);
}

void ml_model_make_rope(ml_model *m)
{
    const ml_config *c = &m->config;
    double dim = (double)c->rotary_dim;
    double low = 0, high = 0;
    if (c->yarn_factor != 1) {
        double positions = (double)c->yarn_original_positions;
        low = fmax(floor(yarn_turning_dim(c->yarn_beta_fast, dim, c->rope_theta, positions)), 0);
        high = fmin(ceil(yarn_turning_dim(c->yarn_beta_slow, dim, c->rope_theta, positions)), dim - 1);
        if (low == high) high += 0.001;
    }
    for (int64_t i = 0; i < c->rotary_dim / 2; i++) {
        double freq = pow(c->rope_theta, -2.0 * (double)i / dim);
        if (c->yarn_factor != 1) {
            double ramp = fmin(fmax(((double)i - low) / (high - low), 0), 1);
            freq = freq * (1 - ramp) + freq / c->yarn_factor * ramp;
        }
        m->inv_freq[i] = (float)(freq / ml_config_llama3_divisor(c, i));
    }
    double scale = 1 / sqrt((double)ml_config_d_qk(c));
    m->rope_magnitude = 1;
    if (c->yarn_factor != 1) {
        double all = c->yarn_mscale_all_dim;
        m->rope_magnitude = (float)(all != 0 && c->yarn_mscale != 0 ? yarn_magnitude(c->yarn_factor, c->yarn_mscale) /
                                                                          yarn_magnitude(c->yarn_factor, all)
                                                                    : yarn_magnitude(c->yarn_factor, 1));
        if (c->attention == ML_ATTENTION_MLA && all != 0) scale *= pow(yarn_magnitude(c->yarn_factor, all), 2);
    }
    m->softmax_scale = (float)scale;
}
