-- One row per service of the ownership map, as it is today.
select service, team, project, environment, lifecycle, place
from {{ source("lake", "ownership_services") }}
