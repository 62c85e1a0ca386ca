import { EntityRefLink } from '@backstage/plugin-catalog-react';

import { MISSING } from './filters';
import { ownerRef } from './links';

/** An owner, linked to its entity. The name is shown as it stands: nothing is fetched for it. */
export function Owner(props: {
  owner?: string | undefined;
  namespace?: string | undefined;
}) {
  const { owner, namespace } = props;
  if (owner === undefined) {
    return <>{MISSING}</>;
  }
  const ref = ownerRef(owner, namespace);
  return ref ? (
    <EntityRefLink entityRef={ref}>{owner}</EntityRefLink>
  ) : (
    <>{owner}</>
  );
}
