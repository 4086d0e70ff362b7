/* A SPANK plugin with pyxis' options, for tests: scripts with --container-* run unmodified on a Slurm without enroot.
 * No container is made. The image must be readable when it is a path, the mounts are bound in a mount namespace of
 * the task's own, and what was asked for stands in the task's environment as PYXIS_<OPTION>.
 *
 * The nodes of the tests share a machine. So that none takes another for itself, each task of a step, in a container or
 * not, has its node's name as host name. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <slurm/spank.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

SPANK_PLUGIN(pyxis_stand_in, 1)

enum { IMAGE, MOUNTS, WORKDIR, NO_HOME, NUM_OPTIONS };
static char *given[NUM_OPTIONS];
static const char *const variable[NUM_OPTIONS] = {"PYXIS_IMAGE", "PYXIS_MOUNTS", "PYXIS_WORKDIR", "PYXIS_NO_HOME"};

static int keep(int which, const char *value, int remote) {
    (void)remote;
    free(given[which]); /* as in pyxis, the last one wins */
    given[which] = strdup(value ? value : "1");
    return 0;
}

static struct spank_option options[] = {
    {"container-image", "IMAGE", "stand-in: path or registry#name", 1, IMAGE, keep},
    {"container-mounts", "SRC:DST[:ro],...", "stand-in: bind mounts", 1, MOUNTS, keep},
    {"container-workdir", "PATH", "stand-in: working folder", 1, WORKDIR, keep},
    {"no-container-mount-home", NULL, "stand-in: recorded only", 0, NO_HOME, keep},
    SPANK_OPTIONS_TABLE_END};

int slurm_spank_init(spank_t spank, int argc, char **argv) {
    (void)argc, (void)argv;
    for (int i = 0; i < NUM_OPTIONS; i++)
        if (spank_option_register(spank, &options[i]) != ESPANK_SUCCESS) return -1;
    return 0;
}

static int make_target(const char *path, int is_folder) {
    char part[4096];
    snprintf(part, sizeof part, "%s", path);
    for (char *slash = strchr(part + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdir(part, 0755) && errno != EEXIST) return -1;
        *slash = '/';
    }
    if (is_folder) return mkdir(part, 0755) && errno != EEXIST ? -1 : 0;
    int file = open(part, O_CREAT | O_WRONLY, 0644);
    return file < 0 ? -1 : close(file);
}

static int bind_one(char *entry) {
    char *source = strtok(entry, ":"), *target = strtok(NULL, ":"), *flags = strtok(NULL, ":");
    struct stat status;
    if (stat(source, &status)) return slurm_error("pyxis stand-in: no mount source %s", source), -1;
    if (!target || strcmp(source, target) == 0) return 0;
    if (make_target(target, S_ISDIR(status.st_mode)) || mount(source, target, NULL, MS_BIND | MS_REC, NULL))
        return slurm_error("pyxis stand-in: cannot bind %s to %s: %m", source, target), -1;
    if (flags && strcmp(flags, "ro") == 0 && mount(NULL, target, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL))
        return slurm_error("pyxis stand-in: cannot make %s read-only: %m", target), -1;
    return 0;
}

/* On the node, before privileges are dropped. */
int slurm_spank_task_init_privileged(spank_t spank, int argc, char **argv) {
    (void)spank, (void)argc, (void)argv;
    if (!given[IMAGE]) return 0;
    if (given[IMAGE][0] == '/' && access(given[IMAGE], R_OK))
        return slurm_error("pyxis stand-in: no image %s", given[IMAGE]), -1;
    if (!given[MOUNTS]) return 0;
    if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
        return slurm_error("pyxis stand-in: no mount namespace: %m"), -1;
    char *list = strdup(given[MOUNTS]), *rest = list;
    int code = 0;
    for (char *entry; code == 0 && (entry = strsep(&rest, ",")) != NULL;)
        if (*entry) code = bind_one(entry);
    free(list);
    return code;
}

/* Root, as the cluster is. The name is known only here: before, the variable is the batch script's. */
static int name_host(spank_t spank) {
    char node[256], step[32];
    if (spank_getenv(spank, "SLURM_STEP_ID", step, sizeof step) != ESPANK_SUCCESS) return 0; /* the batch script */
    if (spank_getenv(spank, "SLURMD_NODENAME", node, sizeof node) != ESPANK_SUCCESS) return 0;
    if (unshare(CLONE_NEWUTS) || sethostname(node, strlen(node)))
        return slurm_error("pyxis stand-in: no host name of its own: %m"), -1;
    return 0;
}

int slurm_spank_task_init(spank_t spank, int argc, char **argv) {
    (void)argc, (void)argv;
    if (name_host(spank)) return -1;
    for (int i = 0; i < NUM_OPTIONS; i++)
        if (given[i]) spank_setenv(spank, variable[i], given[i], 1);
    if (given[WORKDIR] && chdir(given[WORKDIR]))
        return slurm_error("pyxis stand-in: no folder %s: %m", given[WORKDIR]), -1;
    return 0;
}
