import { Table } from '@backstage/core-components';
import Grid from '@material-ui/core/Grid';

import type { Tally } from './registry';

/** How many live repositories there are of each owner, risk and environment. */
export function SummaryTables(props: { summary: Tally[] }) {
  return (
    <Grid container>
      {props.summary.map(({ field, counts }) => (
        <Grid item key={field} xs={12} md={4}>
          <Table
            title={`Live by ${field}`}
            columns={[
              { title: 'Name', field: 'name' },
              { title: 'Repositories', field: 'count', type: 'numeric' },
            ]}
            data={counts.map((each, index) => ({ ...each, id: index }))}
            options={{
              padding: 'dense',
              draggable: false,
              paging: false,
              search: false,
            }}
          />
        </Grid>
      ))}
    </Grid>
  );
}
