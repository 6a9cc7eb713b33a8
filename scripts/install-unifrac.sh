#!/bin/bash
# Install the unifrac package, which has no wheels on PyPI, into a virtual environment on Debian 12 without conda.
#
# usage: scripts/install-unifrac.sh [VENV]        (VENV: .venv unless given; made where it does not exist)
#
# Debian's libssu (1.2) is older than what unifrac 1.5 is written for. A header put before Debian's own declares the
# newer entry points; those that aam uses have the same meaning in both, the others report "unknown method".
# Root is needed only where one of the Debian packages below is missing. With conda, see docs/unifrac.md instead.
set -euo pipefail

venv=${1:-.venv}
python=$venv/bin/python
debian_packages=(g++ make python3-dev python3-venv libssu-dev unifrac-tools)

works() { "$python" -W ignore -c 'import bp, unifrac; assert unifrac.__version__ == "1.5"' 2>/dev/null; }

if works && command -v ssu >/dev/null; then
  echo "unifrac is already installed in $venv"
  exit 0
fi

missing=()
for package in "${debian_packages[@]}"; do
  dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null | grep -q '^ii' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" -ne 0 ]; then
    echo "missing Debian packages; run as root: apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
  fi
  apt-get update -q
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
fi

[ -x "$python" ] || python3 -m venv "$venv"
# setuptools below 81 still has pkg_resources: iow imports it when it is built, unifrac whenever it is imported
"$python" -m pip install -q "setuptools>=77,<81" wheel "cython>=3" numpy h5py biom-format "scikit-bio>=0.7"
"$python" -m pip install -q --no-build-isolation iow==1.0.8

# unifrac's setup.py looks for headers in $CONDA_PREFIX/include
prefix=$(mktemp -d)
trap 'rm -rf "$prefix"' EXIT
headers=$prefix/include/unifrac
mkdir -p "$headers"
ln -s /usr/include/unifrac/{status_enum,task_parameters}.hpp "$headers/"
cat > "$headers/api.hpp" <<'HEADER'
#ifndef AAM_NEWER_UNIFRAC_API
#define AAM_NEWER_UNIFRAC_API
#include <stdbool.h>
#include <stdint.h>
#include "/usr/include/unifrac/api.hpp"

#define grouping_missing 8

static inline void ssu_set_random_seed(unsigned int seed) { (void)seed; }

static inline ComputeStatus one_dense_pair_v2(
    unsigned int n_obs, const char **obs_ids, const double *sample1, const double *sample2,
    const support_bptree_t *tree, const char *method, bool variance_adjust, double alpha, bool bypass_tips,
    double *result) {
  return unknown_method;
}

static inline ComputeStatus unifrac_to_file_v2(
    const char *biom, const char *tree, const char *out, const char *method, bool variance_adjust, double alpha,
    bool bypass_tips, unsigned int n_substeps, const char *format, unsigned int subsample_depth,
    bool with_replacement, unsigned int pcoa_dims, unsigned int permanova_perms, const char *grouping_file,
    const char *grouping_columns, const char *mmap_dir) {
  if (subsample_depth || permanova_perms) return unknown_method;
  return unifrac_to_file(biom, tree, out, method, variance_adjust, alpha, bypass_tips, n_substeps, format,
                         pcoa_dims, mmap_dir);
}

static inline ComputeStatus unifrac_multi_to_file_v2(
    const char *biom, const char *tree, const char *out, const char *method, bool variance_adjust, double alpha,
    bool bypass_tips, unsigned int n_substeps, const char *format, unsigned int n_subsamples,
    unsigned int subsample_depth, bool with_replacement, unsigned int pcoa_dims, unsigned int permanova_perms,
    const char *grouping_file, const char *grouping_columns, const char *mmap_dir) {
  return unknown_method;
}
#endif
HEADER
CONDA_PREFIX=$prefix "$python" -m pip install -q --no-build-isolation --no-deps unifrac==1.5

works || { echo "unifrac was built but cannot be imported from $venv" >&2; exit 1; }
echo "installed unifrac 1.5 into $venv"
