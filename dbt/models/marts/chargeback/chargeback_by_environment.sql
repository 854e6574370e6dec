-- One row per UTC month and environment.
{{ chargeback_by_month("environment") }}
