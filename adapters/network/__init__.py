"""Pod networks through CNI plugins: configuration, exec, cache, results. libcni's rules and its cache layout."""
