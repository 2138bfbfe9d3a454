/* The fake hub as a program, for check_fetch.
 *   fake_hub_server FOLDER [PART KIND AMOUNT TIMES]...     kinds: cut, stall, status
 * Writes the certificate to FOLDER/ca.pem and its URL to FOLDER/url, and runs until standard input ends; then it prints
 * how many requests for files it had, and how many of them for a part. */
#include "support/fake_hub.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv)
{
    static fake_hub hub;
    char path[4200], done[4200];
    if (argc < 2 || (argc - 2) % 4 || (argc - 2) / 4 > HUB_MAX_FAULTS) return 2;
    for (int i = 2; i < argc; i += 4) {
        hub_fault_kind kind = strcmp(argv[i + 1], "cut") == 0     ? HUB_CUT
                              : strcmp(argv[i + 1], "stall") == 0 ? HUB_STALL
                                                                  : HUB_STATUS;
        hub.fault[(i - 2) / 4] = (hub_fault){ argv[i], kind, atoi(argv[i + 2]), atoi(argv[i + 3]) };
    }
    fake_hub_start(&hub, argv[1]);
    snprintf(path, sizeof path, "%s/url.tmp", argv[1]);
    snprintf(done, sizeof done, "%s/url", argv[1]);
    FILE *file = fopen(path, "w");
    if (!file || fprintf(file, "%s\n", test_server_url(hub.server)) < 0 || fclose(file) != 0 || rename(path, done) != 0)
        return 1;
    while (getchar() != EOF) continue;
    fake_hub_stop(&hub);
    printf("%d %d\n", hub.n_file_request, hub.n_part_request);
    return 0;
}
