/* Sweeps: a recipe whose section `sweep` names runs is trained once per run and seed.
 *
 *   [sweep]
 *   run = adamw: optim.name=adamw optim.lr=3e-3
 *   run = muon: optim.lr=6e-3 train.steps=260
 *   seeds = 1 2 3
 *   jobs = 2
 *
 *   <run>/adamw-seed1/ ...   a run folder each, with what it printed in output.txt
 *   <run>/sweep.jsonl  sweep.md  sweep.svg    results so far, as data, table and curves
 *
 * The data is prepared once; keys of the sections data and sweep, and train.seed, are therefore not a run's to set.
 * The same command goes on where an earlier one stopped: finished runs are kept, others resumed.  An option on the
 * command line wins over the recipe as always, also over the keys of its runs. */
#ifndef ML_CLI_SWEEP_H
#define ML_CLI_SWEEP_H

#include "base/options.h"

/* `o` is the parsed recipe; argc and argv are the verb's, parsed again for each run.  A run that diverges is listed as
 * such; any other failure ends the sweep when the runs under way are done.  ML_ECANCEL after a stop request. */
ml_status ml_cli_sweep(const ml_options *o, int argc, char **argv, ml_error *err);

#endif
