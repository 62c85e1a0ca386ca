import { InfoCard } from '@backstage/core-components';
import { useEntity, useEntityRefLink } from '@backstage/plugin-catalog-react';
import { useMemo } from 'react';

import { RegistryFacts } from './RegistryFacts';
import { registryOf } from './registry';

/** The path of the tab below the entity's page. */
export const TAB = '/repositories';

/** The counts of a registry and where its content comes from, for the overview of its entity. */
export function RegistryCard() {
  const { entity } = useEntity();
  const linkTo = useEntityRefLink();
  const registry = useMemo(() => registryOf(entity), [entity]);
  return (
    <InfoCard
      title="Container registry"
      deepLink={{ title: 'Repositories', link: `${linkTo(entity)}${TAB}` }}
    >
      <RegistryFacts entity={entity} registry={registry} />
    </InfoCard>
  );
}
