import { InfoCard } from '@backstage/core-components';
import { useEntity } from '@backstage/plugin-catalog-react';
import Grid from '@material-ui/core/Grid';
import { useMemo } from 'react';

import { RegistryFacts } from './RegistryFacts';
import { registryOf } from './registry';
import { LiveTable, PendingTable } from './RepositoryTables';
import { SummaryTables } from './SummaryTables';

/** Everything that the entity says of its registry, for a tab of its page. */
export function RegistryContent() {
  const { entity } = useEntity();
  const registry = useMemo(() => registryOf(entity), [entity]);
  const { repositories, pending, summary } = registry;
  const { namespace } = entity.metadata;
  const isListed = entity.spec?.repositories !== undefined;
  return (
    <Grid container>
      <Grid item xs={12}>
        <InfoCard title="Container registry">
          <RegistryFacts entity={entity} registry={registry} />
        </InfoCard>
      </Grid>
      {isListed ? (
        <>
          <Grid item xs={12}>
            <LiveTable repositories={repositories} namespace={namespace} />
          </Grid>
          <Grid item xs={12}>
            <PendingTable pending={pending} namespace={namespace} />
          </Grid>
        </>
      ) : (
        <Grid item xs={12}>
          <SummaryTables summary={summary} />
        </Grid>
      )}
    </Grid>
  );
}
