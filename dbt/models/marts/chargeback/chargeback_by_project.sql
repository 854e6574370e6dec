-- One row per UTC month and project.
{{ chargeback_by_month("project") }}
