"""Reports: the numbered notebooks, executed by papermill, as pages beside their tables and figures."""
