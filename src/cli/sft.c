/* moonlight sft RECIPE */
#include "cli/cli.h"
#include "cli/pretrain.h"

ml_status ml_cli_sft(int argc, char **argv, ml_error *err)
{
    return ml_cli_train("sft", argc, argv, err);
}
