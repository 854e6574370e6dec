-- One row per UTC month and team.
{{ chargeback_by_month("team") }}
